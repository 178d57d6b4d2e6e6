const data = JSON.parse(document.getElementById("report-data").textContent);
const byId = (id) => document.getElementById(id);

