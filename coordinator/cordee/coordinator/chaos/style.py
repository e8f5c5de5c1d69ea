"""How a report looks, in the light and in the dark: the style sheet of its page."""

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #1c2126; --quiet: #66707a; --line:
  #e3e1da; --accent: #2563a8; --fill: #2563a81f; --good: #1a7f4b; --bad: #c0312b; --warn: #b9770e; --stall:
  #c0312b40; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e7e9ea; --quiet: #98a2ab;
  --line: #2f353b; --accent: #6db1f2; --fill: #6db1f226; --good: #4cc38a; --bad: #f2746b; --warn: #e0a84a; --stall:
  #f2746b59; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 34px 0 10px; }
p { margin: 6px 0; max-width: 78ch; }
.quiet, .quiet code { color: var(--quiet); }
code { font: 13px/1.5 ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.verdict { display: inline-block; font-weight: 700; font-size: 13px; letter-spacing: .06em; padding: 3px 10px;
  border-radius: 99px; color: var(--card); background: var(--good); margin-bottom: 10px; }
.verdict.failed { background: var(--bad); }
.verdict.recovered { background: var(--accent); }
.problems { border-left: 4px solid var(--bad); padding: 2px 14px; margin: 12px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 20px 0 6px;
  }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.tile b { display: block; font-size: 22px; line-height: 1.25; letter-spacing: -.01em; }
.tile span { color: var(--quiet); font-size: 13px; }
.tile.good b { color: var(--good); }
.tile.bad b { color: var(--bad); }
.card { overflow-x: auto; }
.card svg { display: block; width: 100%; min-width: 720px; height: auto; }
svg text { fill: var(--ink); font-size: 12px; }
svg .label { text-anchor: end; }
svg .tick { fill: var(--quiet); font-size: 11px; text-anchor: middle; }
svg .tick.end { text-anchor: end; }
svg .grid { stroke: var(--line); }
svg .lane { stroke: var(--line); stroke-dasharray: 2 4; }
svg .axis { stroke: var(--quiet); }
svg .area { fill: var(--fill); }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 1.6; }
svg .curve.thin { stroke-width: 1.2; }
svg .calm { stroke: var(--good); stroke-dasharray: 6 4; stroke-width: 1.4; }
svg .hover { fill: transparent; }
svg .hover:hover { fill: var(--fill); }
svg .world { fill: var(--fill); }
svg .world:hover { fill: var(--accent); }
svg .stall { fill: var(--stall); }
svg .stall:hover { fill: var(--bad); }
svg .outage { fill: var(--warn); opacity: .25; }
svg .dot { fill: var(--accent); fill-opacity: .55; }
svg .median { stroke: var(--ink); stroke-width: 2; }
svg .mark { fill: var(--accent); stroke: var(--card); }
svg .mark.calmly { fill: var(--quiet); }
svg .mark.open { fill: var(--bad); }
svg .mark.out { fill: none; stroke: var(--quiet); stroke-width: 1.4; }
svg circle:hover { stroke: var(--ink); stroke-width: 2; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--quiet); font-weight: 600; font-size: 12.5px; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); white-space: nowrap; vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td.wide { white-space: normal; }
td.number, th.number { text-align: right; }
.total td { font-weight: 700; }
td.bad { color: var(--bad); font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 2px 0; color: var(--quiet); font-size: 13px; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px; vertical-align:
  -1px; background: var(--accent); }
.key.box { border-radius: 2px; }
.key.stalled { background: var(--bad); opacity: .6; }
.key.calmly { background: var(--quiet); }
.key.open { background: var(--bad); }
.key.away { background: var(--warn); }
.key.out { background: none; border: 1.5px solid var(--quiet); }
.key.dash { border-radius: 0; height: 0; width: 18px; background: none; border-top: 2px dashed var(--good);
  vertical-align: 3px; }
.bar { display: inline-block; height: 11px; border-radius: 3px; background: var(--accent); vertical-align: -1px;
  min-width: 2px; }
.bar.lost { background: var(--bad); opacity: .75; }
.bar.start { background: var(--quiet); }
details summary { cursor: pointer; color: var(--quiet); margin-bottom: 8px; }
"""
