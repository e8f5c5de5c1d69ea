"""What all panels have in common: one look, one way to ask, one way to say what a number means.

Built with Grafana's own foundation SDK, so that every option has the name and the place that Grafana reads. Its
builders of the classic schema say that they are old: the new one is not read by every Grafana that loads dashboards
from files.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import (
        common,
        dashboard,
        heatmap,
        prometheus,
        stat,
        table,
        timeseries,
    )
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

__all__ = [
    "BLUE",
    "DATASOURCE",
    "GREEN",
    "ORANGE",
    "RED",
    "Ask",
    "Color",
    "Column",
    "annotation",
    "bars",
    "base",
    "colored",
    "happened",
    "heat_map",
    "lines",
    "link",
    "mapped",
    "number",
    "result_variable",
    "stacked",
    "table_of",
    "to_json",
    "values_variable",
]

DATASOURCE = shapes.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, BLUE, ORANGE, RED, GREY, PURPLE = "green", "blue", "orange", "red", "text", "purple"
Color = str
Thresholds = Sequence[tuple[float | None, Color]]
P = TypeVar("P", bound=Any)


@dataclass(frozen=True)
class Ask:
    """A query, and what its series are called."""

    expr: str
    legend: str = ""
    instant: bool = False
    name: str = ""
    """Its letter, where something refers to it."""
    format: PromQueryFormat = PromQueryFormat.TIME_SERIES


def happened(series: str, by: str) -> str:
    """How often something happened in each interval, and nothing where it did not.

    In whole numbers, each in the one interval that it falls into: `increase` extrapolates, and its windows overlap. Of
    each series by itself: what ends, or begins again at 0 after a restart, takes nothing away from the others.
    """
    return f"sum by ({by}) (({series} - {series} offset $__interval) > 0)"


def targets(asks: Iterable[Ask]) -> list[prometheus.Dataquery]:
    """Grafana's form of queries: expressions on one line, letters in order."""
    found = []
    for number, ask in enumerate(asks):
        query = (
            prometheus.Dataquery()
            .datasource(DATASOURCE)
            .expr(" ".join(ask.expr.split()))
            .legend_format(ask.legend or "__auto")
            .ref_id(ask.name or chr(ord("A") + number))
            .format(ask.format)
        )
        found.append(query.instant() if ask.instant else query.range())
    return found


def _dressed(panel: P, title: str, words: str, asks: Iterable[Ask], unit: str, width: int, height: int) -> P:
    panel.title(title).description(words).datasource(DATASOURCE).span(width).height(height).unit(unit)
    return panel.targets(targets(asks))


def _steps(thresholds: Thresholds) -> dashboard.ThresholdsConfig:
    steps = [model.Threshold(value=value, color=color) for value, color in thresholds]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def colored(panel: P, colors: dict[str, Color]) -> P:
    """Series by their names, in colours that mean something."""
    for name, color in colors.items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(name, [model.DynamicConfigValue(id_val="color", value=fixed)])
    return panel


def mapped(panel: P, colors: dict[str, Color]) -> P:
    """A number's colour by its name."""
    return colored(panel, colors)


def lines(
    title: str,
    words: str,
    *asks: Ask,
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    fill: int = 8,
    steps: bool = False,
    logarithmic: bool = False,
    least: float | None = 0.0,
    most: float | None = None,
    limits: Thresholds = (),
) -> timeseries.Panel:
    """Lines over time, with a table of last, mean and largest values below."""
    panel = _dressed(timeseries.Panel(), title, words, asks, unit, width, height)
    panel.draw_style(shapes.GraphDrawStyle.LINE).line_width(2 if len(asks) == 1 else 1).fill_opacity(fill)
    panel.show_points(shapes.VisibilityMode.NEVER).span_nulls(False)
    shape = shapes.LineInterpolation.STEP_AFTER if steps else shapes.LineInterpolation.LINEAR
    panel.line_interpolation(shape).gradient_mode(shapes.GraphGradientMode.OPACITY)
    panel.tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING))
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST).show_legend(True)
    panel.legend(legend.placement(shapes.LegendPlacement.BOTTOM).calcs(["lastNotNull"]))
    if logarithmic:
        panel.scale_distribution(common.ScaleDistributionConfig().type(shapes.ScaleDistribution.LOG).log(10))
    elif least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    if limits:
        style = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        panel.thresholds(_steps(limits)).thresholds_style(style)
    return panel


def stacked(title: str, words: str, *asks: Ask, **options: Any) -> timeseries.Panel:
    """Areas on top of each other: parts of a whole, over time."""
    panel = lines(title, words, *asks, fill=60, **{"steps": True} | options)
    panel.line_width(0).gradient_mode(shapes.GraphGradientMode.NONE)
    return panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))


def bars(title: str, words: str, *asks: Ask, **options: Any) -> timeseries.Panel:
    """What happened, when: a bar for each interval in which it did."""
    panel = lines(title, words, *asks, fill=80, **options)
    panel.draw_style(shapes.GraphDrawStyle.BARS).line_width(0).gradient_mode(shapes.GraphGradientMode.NONE)
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST).show_legend(True)
    panel.legend(legend.placement(shapes.LegendPlacement.BOTTOM).calcs(["sum"]))
    return panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))


def heat_map(title: str, words: str, ask: Ask, *, unit: str, width: int = 12, height: int = 8) -> heatmap.Panel:
    """A classic histogram over time: a column for each interval, darker where there was more."""
    asked = Ask(ask.expr, "{{le}}", format=PromQueryFormat.HEATMAP)
    panel = _dressed(heatmap.Panel(), title, words, (asked,), "short", width, height)
    colors = heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64).exponent(0.5)
    return panel.calculate(False).color(colors).y_axis(heatmap.YAxisConfig().unit(unit)).cell_gap(1)


def number(
    title: str,
    words: str,
    *asks: Ask,
    unit: str = "short",
    width: int = 4,
    height: int = 4,
    thresholds: Thresholds = ((None, BLUE),),
    graph: bool = True,
    decimals: int | None = None,
    none: str = "–",
    by_name: bool = False,
) -> stat.Panel:
    """One number that is read from across the room, and how it came to it."""
    panel = _dressed(stat.Panel(), title, words, asks, unit, width, height)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.graph_mode(shapes.BigValueGraphMode.AREA if graph else shapes.BigValueGraphMode.NONE)
    panel.color_mode(shapes.BigValueColorMode.VALUE).justify_mode(shapes.BigValueJustifyMode.CENTER)
    if by_name:
        panel.text_mode(shapes.BigValueTextMode.NAME)
    elif len(asks) > 1:
        panel.text_mode(shapes.BigValueTextMode.VALUE_AND_NAME)
    if decimals is not None:
        panel.decimals(decimals)
    return panel.thresholds(_steps(thresholds)).no_value(none)


@dataclass(frozen=True)
class Column:
    """A column of a table: which query or label it shows, and how."""

    field: str
    title: str
    unit: str = ""
    thresholds: Thresholds = ()
    colors: dict[str, Color] | None = None
    """A text's background by its value."""
    url: str = ""
    width: int = 0
    bar: bool = False
    decimals: int | None = None


def table_of(
    title: str, words: str, asks: Sequence[Ask], columns: Sequence[Column], *, width: int = 24, height: int = 10
) -> table.Panel:
    """Instant queries side by side: rows are what their labels say, columns are what the queries say."""
    asked = [Ask(ask.expr, instant=True, name=ask.name, format=PromQueryFormat.TABLE) for ask in asks]
    panel = _dressed(table.Panel(), title, words, asked, "short", width, height)
    order = {column.field: number for number, column in enumerate(columns)}
    names = {column.field: column.title for column in columns}
    hidden = {f"Value #{ask.name}": True for ask in asks if f"Value #{ask.name}" not in order} | {"Time": True}
    organized = {"excludeByName": hidden, "indexByName": order, "renameByName": names}
    panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=organized))
    panel.show_header(True).cell_height(shapes.TableCellHeight.SM).filterable(False)
    for column in columns:
        panel.override_by_name(column.title, list(_column(column)))
    return panel.no_value("–")


def _column(column: Column) -> Iterable[model.DynamicConfigValue]:
    set_to = model.DynamicConfigValue
    if column.unit:
        yield set_to(id_val="unit", value=column.unit)
    if column.decimals is not None:
        yield set_to(id_val="decimals", value=column.decimals)
    if column.width:
        yield set_to(id_val="custom.width", value=column.width)
    if column.thresholds:
        steps = [{"color": color, "value": value} for value, color in column.thresholds]
        yield set_to(id_val="thresholds", value={"mode": "absolute", "steps": steps})
        yield set_to(id_val="custom.cellOptions", value={"type": "color-text"})
    if column.bar:
        yield set_to(id_val="custom.cellOptions", value={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"})
        yield set_to(id_val="min", value=0)
        yield set_to(id_val="max", value=1)
    if column.colors:
        options = {name: {"color": color, "index": index} for index, (name, color) in enumerate(column.colors.items())}
        yield set_to(id_val="mappings", value=[{"type": "value", "options": options}])
        yield set_to(id_val="custom.cellOptions", value={"type": "color-text"})
    if column.url:
        yield set_to(id_val="links", value=[{"title": "Open this job", "url": column.url}])


# -- around the panels


def link(title: str, url: str, words: str, icon: str = "dashboard") -> dashboard.DashboardLink:
    """A link at the top of a dashboard, which keeps the time that is looked at."""
    made = dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url).tooltip(words).icon(icon)
    return made.keep_time(True).include_vars(False)


def base(uid: str, title: str, words: str, *, since: str, refresh: str) -> dashboard.Dashboard:
    """A dashboard without panels, and with a choice of data source."""
    chosen = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(words)
        .tags(["cordee"])
        .timezone("browser")
        .time(since, "now")
        .refresh(refresh)
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .editable()
        .with_variable(chosen.hide(model.VariableHide.DONT_HIDE))
    )


def result_variable(name: str, label: str, words: str, expr: str, picked: str) -> dashboard.QueryVariable:
    """A choice of what a query finds, over the time that is looked at: what has ended can be chosen as well."""
    query = f"query_result({' '.join(expr.split())})"
    made = dashboard.QueryVariable(name).label(label).description(words).datasource(DATASOURCE)
    made.query({"qryType": 3, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}).definition(query)
    return made.regex(f'/{picked}="([^"]+)"/').refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)


def values_variable(name: str, label: str, words: str, metric: str) -> dashboard.QueryVariable:
    """A choice of a label's values; all of them at first, and also where there is no such label."""
    query = f"label_values({metric},{name})"
    made = dashboard.QueryVariable(name).label(label).description(words).datasource(DATASOURCE)
    made.query({"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}).definition(query)
    made.multi(True).include_all(True).all_value(".*").current(model.VariableOption(text="All", value="$__all"))
    return made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)


def annotation(name: str, expr: str, color: Color, *, title: str, text: str, tags: str) -> dashboard.AnnotationQuery:
    """Marks in all panels, where a query is above zero."""
    query = " ".join(expr.split())
    target = prometheus.Dataquery().datasource(DATASOURCE).expr(query).range().ref_id("Anno").interval("5s")
    made = dashboard.AnnotationQuery().name(name).datasource(DATASOURCE).enable(True).hide(False).icon_color(color)
    return made.target(target).expr(query).step("5s").title_format(title).text_format(text).tag_keys(tags)


def to_json(made: dashboard.Dashboard) -> str:
    """The file: panels numbered from 1, so that links to them last."""
    data: dict[str, Any] = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    numbered = [panel for row in data["panels"] for panel in (row, *row.get("panels", ()))]
    for number, panel in enumerate(numbered, 1):
        panel["id"] = number
    for one in data["annotations"]["list"]:
        one.pop("placement", None)  # its switch belongs in sight
    return json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
