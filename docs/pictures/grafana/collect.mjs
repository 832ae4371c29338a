// Asks a Prometheus what the panels of the chart's Grafana dashboard ask it, for the last minutes, and
// writes dashboard and answers as JSON.
//
//   node collect.mjs http://127.0.0.1:9090 10 > data.json

import { readFileSync } from 'node:fs';

const [prometheus, minutes] = process.argv.slice(2);
const chart = new URL('../../../charts/dapr/dashboards/control-plane.json', import.meta.url);
const dashboard = JSON.parse(readFileSync(chart));
const end = Math.floor(Date.now() / 1000);
const start = end - 60 * Number(minutes);

async function ask(query) {
  const range = new URLSearchParams({ query, start, end, step: 15 });
  const answer = await fetch(`${prometheus}/api/v1/query_range?${range}`);
  const { status, data, error } = await answer.json();
  if (status !== 'success') throw new Error(`${query}: ${error}`);
  return data.result;
}

const answers = {};
for (const panel of dashboard.panels) {
  answers[panel.id] = await Promise.all((panel.targets ?? []).map(({ expr }) => ask(expr)));
}
console.log(JSON.stringify({ dashboard, answers, start, end }));
