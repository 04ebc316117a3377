//! The lanes of all findings as one image, for a report or a ticket. Every name in it comes from somebody's file, so
//! everything is escaped, and there is no script in it.

use std::fmt::Write;

use c4_detect::finding::Finding;

use super::lanes::{Doing, Lanes};
use crate::words::{duration_ns, printable};

const WIDTH: f64 = 1_200.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 20.0;
const LANE: f64 = 22.0;
const HEAD: f64 = 64.0;
const FOOT: f64 = 40.0;
/// Marks on the time axis.
const TICKS: u32 = 6;

/// The image.
#[must_use]
pub fn svg(pictures: &[(&Finding, Option<Lanes>)]) -> String {
    let height = |lanes: &Option<Lanes>| {
        HEAD + FOOT + LANE * lanes.as_ref().map_or(0.0, |lanes| lanes.lanes.len() as f64)
    };
    let total = pictures.iter().map(|(_, lanes)| height(lanes)).sum::<f64>().max(HEAD);
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
"##
    );
    if pictures.is_empty() {
        let _ = writeln!(out, r##"<text x="20" y="36" fill="#1a1a1a">No findings.</text>"##);
    }
    let mut top = 0.0;
    for (finding, lanes) in pictures {
        panel(&mut out, finding, lanes.as_ref(), top);
        top += height(lanes);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, finding: &Finding, lanes: Option<&Lanes>, top: f64) {
    let _ = writeln!(
        out,
        r##"<text x="20" y="{}" font-size="15" font-weight="bold" fill="#1a1a1a">{}</text>"##,
        top + 26.0,
        escaped(finding.kind.name()),
    );
    let _ = writeln!(
        out,
        r##"<text x="20" y="{}" fill="#404040">{}</text>"##,
        top + 46.0,
        escaped(&shortened(&finding.summary))
    );
    let Some(lanes) = lanes else { return };
    let span = (lanes.until_ns - lanes.from_ns).max(1) as f64;
    let x = |ns: i64| {
        let share = (ns.saturating_sub(lanes.from_ns)) as f64 / span;
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    };
    for (row, lane) in lanes.lanes.iter().enumerate() {
        let y = top + HEAD + LANE * row as f64;
        let (color, weight) = if lane.suspect { ("#b00020", "bold") } else { ("#1a1a1a", "normal") };
        let _ = writeln!(
            out,
            r##"<text x="{}" y="{}" text-anchor="end" font-weight="{weight}" fill="{color}">{}</text>
<rect x="{LEFT}" y="{}" width="{}" height="{}" fill="#f2f2f2"/>"##,
            LEFT - 8.0,
            y + 15.0,
            escaped(&lane.name),
            y + 2.0,
            WIDTH - LEFT - RIGHT,
            LANE - 4.0,
        );
        for bar in &lane.bars {
            let (from, until) = (x(bar.from_ns), x(bar.until_ns));
            let fill = match bar.doing {
                Doing::Computes => "#9ccc9c",
                Doing::Together => "#8fb3d9",
                Doing::Waits if bar.open => "#d9534f",
                Doing::Waits => "#f0ad4e",
            };
            let length = if bar.open {
                "never ended".to_owned()
            } else {
                duration_ns(bar.until_ns.saturating_sub(bar.from_ns).unsigned_abs())
            };
            let _ = writeln!(
                out,
                r#"<rect x="{from:.2}" y="{}" width="{:.2}" height="{}" fill="{fill}"><title>{} {}: {length}</title></rect>"#,
                y + 3.0,
                (until - from).max(0.5),
                LANE - 6.0,
                said(bar.doing),
                escaped(&bar.label),
            );
        }
    }
    axis(out, lanes, top + HEAD + LANE * lanes.lanes.len() as f64);
}

fn said(doing: Doing) -> &'static str {
    match doing {
        Doing::Computes => "computes",
        Doing::Together => "all are in",
        Doing::Waits => "waits in",
    }
}

fn axis(out: &mut String, lanes: &Lanes, y: f64) {
    let span = (lanes.until_ns - lanes.from_ns).max(1);
    for tick in 0..=TICKS {
        let share = f64::from(tick) / f64::from(TICKS);
        let x = LEFT + share * (WIDTH - LEFT - RIGHT);
        let anchor = match tick {
            0 => "start",
            TICKS => "end",
            _ => "middle",
        };
        let _ = writeln!(
            out,
            r##"<line x1="{x:.1}" y1="{y}" x2="{x:.1}" y2="{}" stroke="#808080"/><text x="{x:.1}" y="{}" text-anchor="{anchor}" font-size="10" fill="#606060">{}</text>"##,
            y + 4.0,
            y + 16.0,
            duration_ns((span as f64 * share) as u64),
        );
    }
    let legend = [
        ("#9ccc9c", "computes"),
        ("#f0ad4e", "waits for others"),
        ("#8fb3d9", "all are in it"),
        ("#d9534f", "never ended"),
    ];
    for (place, (color, text)) in legend.iter().enumerate() {
        let x = LEFT + 140.0 * place as f64;
        let _ = writeln!(
            out,
            r##"<rect x="{x}" y="{}" width="10" height="10" fill="{color}"/><text x="{}" y="{}" font-size="10" fill="#606060">{text}</text>"##,
            y + 22.0,
            x + 14.0,
            y + 31.0,
        );
    }
}

fn shortened(text: &str) -> String {
    const MOST: usize = 180;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}

/// Text that is only text in XML, whatever it says.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What XML 1.0 has no way to say.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
