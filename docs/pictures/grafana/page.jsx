// Draws the chart's Grafana dashboard with Grafana's own panels, from what collect.mjs wrote.

import { createRoot } from 'react-dom/client';
import { createTheme, dateTime, FieldType, getDisplayProcessor, toDataFrame } from '@grafana/data';
import {
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  GlobalStyles,
  PanelChrome,
  ThemeContext,
  TimeSeries,
} from '@grafana/ui';
import recorded from './data.json';

const { dashboard, answers, start, end } = recorded;
const theme = createTheme({ colors: { mode: 'dark' } });
const from = dateTime(start * 1000);
const to = dateTime(end * 1000);
const timeRange = { from, to, raw: { from, to } };

// The sizes of Grafana's grid, in pixels.
const WIDTH = 1400;
const COLUMN = WIDTH / 24;
const ROW = 38;
const GAP = 8;

/** The name of a series: `{{label}}` in the panel's format is the value of that label. */
function nameOf(format, labels) {
  return format.replace(/\{\{(.+?)\}\}/g, (_, label) => labels[label.trim()] ?? '');
}

/** One frame for each series of a panel. */
function framesOf(panel) {
  const all = panel.targets.flatMap((target, number) =>
    answers[panel.id][number].map(({ metric, values }) => ({
      name: nameOf(target.legendFormat, metric),
      times: values.map(([time]) => time * 1000),
      values: values.map(([, value]) => (Number.isFinite(Number(value)) ? Number(value) : null)),
    })),
  );
  return all.map(({ name, times, values }, seriesIndex) => {
    const { defaults } = panel.fieldConfig ?? { defaults: {} };
    const color = { mode: 'palette-classic' };
    const custom = { drawStyle: 'line', lineWidth: 1, fillOpacity: 10, showPoints: 'never', ...defaults.custom };
    const frame = toDataFrame({
      name,
      fields: [
        { name: 'Time', type: FieldType.time, values: times, config: {} },
        { name, type: FieldType.number, values, config: { color, ...defaults, displayName: name, custom } },
      ],
    });
    frame.fields[1].state = { seriesIndex };
    for (const field of frame.fields) {
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
    }
    return frame;
  });
}

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const width = w * COLUMN - GAP;
  const height = h * ROW - GAP;
  const place = { position: 'absolute', left: x * COLUMN, top: y * ROW, width, height };
  if (panel.type === 'row') {
    const style = { ...place, padding: '4px 8px', fontWeight: 500, color: theme.colors.text.primary };
    return <div style={style}>{panel.title}</div>;
  }
  const frames = framesOf(panel);
  const content = (innerWidth, innerHeight) => {
    if (frames.length === 0) {
      return <div style={{ textAlign: 'center', color: theme.colors.text.secondary }}>No data</div>;
    }
    const size = { width: innerWidth, height: innerHeight };
    if (panel.type === 'stat') {
      const [, field] = frames[0].fields;
      const value = { ...field.display(field.values.at(-1)), title: '' };
      return (
        <BigValue
          {...size}
          theme={theme}
          value={value}
          colorMode={BigValueColorMode.Value}
          graphMode={BigValueGraphMode.None}
        />
      );
    }
    const legend = { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [] };
    return <TimeSeries {...size} frames={frames} timeRange={timeRange} timeZone="utc" legend={legend} />;
  };
  return (
    <div style={place}>
      <PanelChrome title={panel.title} width={width} height={height}>
        {content}
      </PanelChrome>
    </div>
  );
}

function Dashboard() {
  const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ position: 'relative', margin: GAP, height: bottom * ROW }}>
        {dashboard.panels.map((panel) => (
          <Panel key={panel.id} panel={panel} />
        ))}
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')).render(<Dashboard />);
