//! Boards as Grafana's JSON (schema version 39: Grafana 10.4 and later).

use serde_json::{Map, Value, json};

use crate::{
    boards,
    model::{Board, Panel, Unit, View},
};

const SCHEMA: u32 = 39;
/// Columns of a board.
const COLUMNS: u8 = 24;
/// The variable by which the data source is chosen.
const SOURCE: &str = "${source}";

pub(crate) fn board(board: &Board) -> Value {
    json!({
        "uid": board.uid,
        "title": board.title,
        "description": board.about,
        "tags": ["c4"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": false,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "utc",
        "links": links(board),
        "annotations": { "list": annotations(board) },
        "templating": { "list": variables(board) },
        "panels": panels(board),
    })
}

/// From each board to all others, with the time that is looked at.
fn links(board: &Board) -> Vec<Value> {
    let others = boards::boards().into_iter().filter(|other| other.uid != board.uid);
    let link = |other: Board| {
        json!({
            "title": other.title,
            "type": "link",
            "url": format!("/d/{}", other.uid),
            "keepTime": true,
            "includeVars": false,
            "targetBlank": false,
            "asDropdown": false,
            "icon": "dashboard",
            "tags": [],
            "tooltip": other.about,
        })
    };
    others.map(link).collect()
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": SOURCE })
}

/// Findings and changes of the iteration time, over everything that a board of a job or of the fleet shows.
fn annotations(board: &Board) -> Vec<Value> {
    boards::annotations(board.variable.map(|variable| variable.name))
        .into_iter()
        .map(|annotation| {
            json!({
                "name": annotation.name,
                "datasource": source(),
                "enable": true,
                "hide": false,
                "iconColor": annotation.colour,
                "expr": annotation.expr,
                "step": "10s",
                "titleFormat": annotation.title,
                "textFormat": annotation.text,
                "tagKeys": "kind,job",
                "useValueForTime": "false",
            })
        })
        .collect()
}

fn variables(board: &Board) -> Vec<Value> {
    let mut list = vec![json!({
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
        "includeAll": false,
        "multi": false,
        "options": [],
        "regex": "",
    })];
    list.extend(board.variable.map(|variable| {
        let query = format!("label_values({}, {})", variable.metric, variable.name);
        json!({
            "name": variable.name,
            "label": variable.name,
            "type": "query",
            "datasource": source(),
            "query": { "query": query, "refId": "values" },
            "hide": 0,
            "refresh": 2,
            "sort": 1,
            "includeAll": false,
            "multi": false,
            "options": [],
            "regex": "",
        })
    }));
    list
}

/// A header for each row, and its panels from the left, wrapped.
fn panels(board: &Board) -> Vec<Value> {
    let (mut list, mut id, mut y) = (Vec::new(), 0_u32, 0_u32);
    for row in &board.rows {
        id += 1;
        list.push(json!({
            "id": id,
            "type": "row",
            "title": row.title,
            "collapsed": false,
            "panels": [],
            "gridPos": { "x": 0, "y": y, "w": COLUMNS, "h": 1 },
        }));
        y += 1;
        let (mut x, mut tallest) = (0, 0);
        for shown in &row.panels {
            let height = height(shown.view);
            if x + shown.width > COLUMNS {
                (x, y, tallest) = (0, y + tallest, 0);
            }
            id += 1;
            let place = json!({ "x": x, "y": y, "w": shown.width, "h": height });
            list.push(panel(shown, id, &place));
            x += shown.width;
            tallest = tallest.max(height);
        }
        y += tallest;
    }
    list
}

fn height(view: View) -> u32 {
    match view {
        View::Number { .. } | View::Word => 4,
        _ => 8,
    }
}

fn panel(panel: &Panel, id: u32, place: &Value) -> Value {
    let (kind, options) = options(panel.view);
    json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": source(),
        "gridPos": place,
        "targets": targets(panel),
        "options": options,
        "fieldConfig": { "defaults": defaults(panel), "overrides": overrides(panel.view) },
        "transformations": transformations(panel.view),
    })
}

fn targets(panel: &Panel) -> Vec<Value> {
    let now = matches!(panel.view, View::Table(_) | View::Matrix { .. });
    let format = match panel.view {
        View::Table(_) | View::Matrix { .. } => "table",
        View::Heatmap => "heatmap",
        _ => "time_series",
    };
    let target = |(index, query): (usize, &crate::model::Query)| {
        json!({
            "refId": char::from(b'A' + u8::try_from(index % 26).unwrap_or(0)).to_string(),
            "datasource": source(),
            "expr": query.expr,
            "legendFormat": query.legend,
            "format": format,
            "instant": now,
            "range": !now,
            "editorMode": "code",
        })
    };
    panel.queries.iter().enumerate().map(target).collect()
}

fn options(view: View) -> (&'static str, Value) {
    let calculated = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
    match view {
        View::Lines | View::Stack => (
            "timeseries",
            json!({
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
        ),
        View::Number { .. } | View::Word => (
            "stat",
            json!({
                "reduceOptions": calculated,
                "colorMode": "value",
                "graphMode": if view == View::Word { "none" } else { "area" },
                "justifyMode": "auto",
                "orientation": "auto",
                "textMode": if view == View::Word { "name" } else { "auto" },
            }),
        ),
        View::Table(_) | View::Matrix { .. } => (
            "table",
            json!({ "showHeader": true, "cellHeight": "sm", "footer": { "show": false, "reducer": ["sum"] } }),
        ),
        View::Heatmap => (
            "heatmap",
            json!({
                "calculate": false,
                "cellGap": 1,
                "color": { "mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "scale": "exponential", "reverse": false },
                "yAxis": { "unit": "s", "axisPlacement": "left", "reverse": false },
                "legend": { "show": true },
                "tooltip": { "mode": "single", "yHistogram": true, "showColorScale": true },
                "rowsFrame": { "layout": "auto" },
                "filterValues": { "le": 1e-9 },
                "exemplars": { "color": "rgba(255,0,255,0.7)" },
                "showValue": "never",
            }),
        ),
    }
}

fn defaults(panel: &Panel) -> Value {
    let mut defaults = json!({
        "unit": unit(panel.unit),
        "color": { "mode": "palette-classic" },
        "thresholds": { "mode": "absolute", "steps": [{ "color": "text", "value": null }] },
        "mappings": [],
        "custom": {},
    });
    match panel.view {
        View::Lines | View::Stack => {
            let stack = if panel.view == View::Stack { "normal" } else { "none" };
            defaults["min"] = json!(0);
            defaults["custom"] = json!({
                "drawStyle": "line",
                "lineInterpolation": "linear",
                "lineWidth": 1,
                "fillOpacity": if panel.view == View::Stack { 40 } else { 5 },
                "showPoints": "never",
                "spanNulls": false,
                "stacking": { "mode": stack, "group": "A" },
            });
        }
        View::Number { bad } => {
            defaults["color"] = json!({ "mode": "thresholds" });
            if bad {
                let steps = json!([{ "color": "green", "value": null }, { "color": "red", "value": 1e-9 }]);
                defaults["thresholds"]["steps"] = steps;
            }
        }
        View::Matrix { .. } => {
            defaults["color"] = json!({ "mode": "continuous-GrYlRd" });
            defaults["custom"] =
                json!({ "cellOptions": { "type": "color-background", "mode": "basic" }, "align": "center" });
            defaults["decimals"] = json!(1);
            defaults["min"] = json!(1);
            defaults["max"] = json!(4);
        }
        View::Word | View::Table(_) | View::Heatmap => {}
    }
    defaults
}

/// Jobs and nodes in tables lead to their boards.
fn overrides(view: View) -> Vec<Value> {
    let View::Table(labels) = view else { return Vec::new() };
    let leads = [("job", "c4-job"), ("node", "c4-node")];
    let link = |(label, uid): &(&str, &str)| {
        json!({
            "matcher": { "id": "byName", "options": label },
            "properties": [{
                "id": "links",
                "value": [{
                    "title": format!("Show this {label}"),
                    "url": format!("/d/{uid}?var-{label}=${{__value.raw}}&${{__url_time_range}}"),
                    "targetBlank": false,
                }],
            }],
        })
    };
    leads.iter().filter(|(label, _)| labels.contains(label)).map(link).collect()
}

fn transformations(view: View) -> Vec<Value> {
    match view {
        View::Table(labels) => {
            let mut index: Map<String, Value> = Map::new();
            for (place, label) in labels.iter().enumerate() {
                index.insert((*label).to_owned(), json!(place));
            }
            index.insert("Value".into(), json!(labels.len()));
            let names: Vec<&str> = labels.iter().copied().chain(["Value"]).collect();
            vec![
                json!({ "id": "filterFieldsByName", "options": { "include": { "names": names } } }),
                json!({ "id": "organize", "options": { "excludeByName": {}, "indexByName": index, "renameByName": {} } }),
            ]
        }
        View::Matrix { row, column } => vec![json!({
            "id": "groupingToMatrix",
            "options": { "rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "empty" },
        })],
        _ => Vec::new(),
    }
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "short",
        Unit::PerSecond => "ops",
        Unit::Seconds => "s",
        Unit::Bytes => "bytes",
        Unit::BytesPerSecond => "Bps",
        Unit::Ratio => "percentunit",
        Unit::Factor => "suffix: ×",
        Unit::Celsius => "celsius",
        Unit::Watts => "watt",
        Unit::Hertz => "hertz",
        Unit::Moment => "dateTimeFromNow",
    }
}
