"""How the page looks: one style sheet, light and dark by the reader's own setting.

Contract: colours are variables at the top; nothing is fetched. Prints in light.
Boundary: style only.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f8fa; --ink: #1f2328;
  --muted: #59636e; --line: #d1d9e0; --track: #eaeef2; --blue: #0072b2; --orange: #e69f00;
  --red: #c4320a; --green: #00795a; --strong: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --card: #161b22; --ink: #e6edf3;
  --muted: #9198a1; --line: #30363d; --track: #21262d; --blue: #56b4e9; --orange: #f0b429;
  --red: #ff8c66; --green: #3fcf9f; --strong: #79b8ff; } }
@media print { :root { color-scheme: light; } section { break-inside: avoid; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 4px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 4px 0 10px; max-width: 80ch; }
.note, .hint, figcaption, .meta { color: var(--muted); font-size: 13px; }
.warning-line { border-left: 4px solid var(--orange); padding: 6px 12px; background: var(--card); }
nav { margin: 16px 0 20px; font-size: 14px; }
nav a { color: var(--strong); margin-right: 16px; text-decoration: none; display: inline-block; }
nav a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; }
.tile .name { color: var(--muted); font-size: 13px; }
.tile .value { font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 8px 0 14px; font-size: 14px; }
th { text-align: left; color: var(--muted); font-weight: 600; font-size: 12.5px;
  border-bottom: 1px solid var(--line); padding: 6px 10px 6px 0; vertical-align: bottom;
  white-space: nowrap; }
td { border-bottom: 1px solid var(--line); padding: 6px 10px 6px 0; vertical-align: top;
  overflow-wrap: break-word; }
td:first-child { overflow-wrap: anywhere; }
td:not(:first-child) > code { display: inline-block; min-width: 13em; overflow-wrap: anywhere; }
th.n, td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.n:last-child, th.n:last-child { padding-right: 0; }
td:first-child { min-width: 160px; }
tr.total td { font-weight: 650; border-bottom: none; }
tr.measured td { color: var(--muted); }
code { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.place { color: var(--muted); display: block; font-size: 12.5px; }
.track { background: var(--track); border-radius: 3px; height: 10px; min-width: 110px;
  display: inline-block; width: 100%; vertical-align: middle; }
.bar { display: block; height: 10px; border-radius: 3px; background: var(--fill); }
.bar.hatched { background: repeating-linear-gradient(135deg, var(--fill) 0 4px,
  transparent 4px 7px); border: 1px solid var(--fill); }
.after { font-size: 12.5px; color: var(--muted); }
.badge { display: inline-block; border-radius: 10px; padding: 0 9px; font-size: 12.5px;
  font-weight: 600; border: 1px solid currentColor; margin-right: 8px; }
.badge.error { color: var(--red); } .badge.warning { color: var(--orange); }
.badge.note { color: var(--blue); } .badge.good { color: var(--green); }
.finding { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  margin: 10px 0; background: var(--card); }
.finding p { margin: 4px 0; max-width: none; } .finding table { margin: 6px 0 0; }
.finding tr:last-child td { border-bottom: none; }
figure { margin: 8px 0 4px; overflow-x: auto; } svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--line); stroke-width: 1; } .mark { stroke: var(--ink); stroke-dasharray: 4 3; }
.axis { fill: var(--muted); font-size: 11.5px; }
.key { margin-right: 16px; display: inline-block; }
.key i { display: inline-block; width: 12px; height: 12px;
  border-radius: 2px; margin-right: 6px; vertical-align: -1px; }
footer { margin-top: 48px; color: var(--muted); font-size: 13px; }
@media (max-width: 640px) { main { padding: 20px 14px 48px; } table { font-size: 13px; }
   .track { min-width: 40px; } td:first-child { min-width: 150px; }
  figure svg { min-width: 620px; } }
"""
