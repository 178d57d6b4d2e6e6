"""Whether responses refuse: detectors behind one small protocol, found by name, and open to other packages."""

from sombrero.evaluation.detectors.protocol import (
    Detector,
    DetectorFactory,
    DetectorSetup,
    faulty_or,
    is_refusal,
    refusal_share,
    require_pairs,
    settled_label,
)
from sombrero.evaluation.detectors.registry import build_detector, detector_names, find_detector, make_detector
from sombrero.evaluation.detectors.text import MarkerDetector, OpeningDetector, TextDetector

__all__ = [
    "Detector",
    "DetectorFactory",
    "DetectorSetup",
    "MarkerDetector",
    "OpeningDetector",
    "TextDetector",
    "build_detector",
    "detector_names",
    "faulty_or",
    "find_detector",
    "is_refusal",
    "make_detector",
    "refusal_share",
    "require_pairs",
    "settled_label",
]
