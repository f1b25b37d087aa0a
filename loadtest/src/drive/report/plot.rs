//! Plots as inline SVG: lines over a plane, and stacked bars. No scripts, no assets; colours are the page's variables.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;
/// Colours of the page.
pub const COLOURS: usize = 8;

/// A line.
pub struct Line {
    pub name: String,
    pub colour: usize,
    pub dashed: bool,
    pub points: Vec<(f64, f64)>,
}

/// How an axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// Powers of ten.
    Log,
    /// Percentiles: each nine takes as much room as the one before.
    Nines,
}

/// A plane with lines.
pub struct Plot<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub lines: Vec<Line>,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(1e-3).log10(),
            Self::Nines => -(1.0 - value.min(99.9999) / 100.0).log10(),
        }
    }

    /// Marks between two values: where, and what stands there.
    fn marks(self, least: f64, most: f64) -> Vec<(f64, String)> {
        match self {
            Self::Linear => {
                let step = nice((most - least) / 5.0);
                let first = (least / step).ceil() as i64;
                let last = (most / step).floor() as i64;
                (first..=last).map(|n| n as f64 * step).map(|at| (at, short(at))).collect()
            }
            Self::Log => {
                let (first, last) = (self.place(least).floor() as i32, self.place(most).ceil() as i32);
                (first..=last).map(|power| 10_f64.powi(power)).map(|at| (at, short(at))).collect()
            }
            Self::Nines => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
                .into_iter()
                .filter(|at| *at <= most)
                .map(|at| (at, format!("{at}%")))
                .collect(),
        }
    }
}

/// The next of 1, 2, 5 by powers of ten.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(1e-9).log10().floor());
    let within = step / power;
    power
        * if within <= 1.0 {
            1.0
        } else if within <= 2.0 {
            2.0
        } else if within <= 5.0 {
            5.0
        } else {
            10.0
        }
}

/// A number on an axis.
fn short(value: f64) -> String {
    if value.abs() >= 1e6 {
        format!("{}M", value / 1e6)
    } else if value.abs() >= 1e4 {
        format!("{}k", value / 1e3)
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// Text between tags or in an attribute.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Plot<'_> {
    /// The figure, with its title and legend.
    pub fn render(&self) -> String {
        let mut html = format!("<figure><figcaption>{}</figcaption>", escape(self.title));
        html.push_str("<div class=legend>");
        for line in &self.lines {
            let dashed = if line.dashed { " dashed" } else { "" };
            let _ =
                write!(html, "<span class=\"c{}{dashed}\"><i></i>{}</span>", line.colour % COLOURS, escape(&line.name));
        }
        html.push_str("</div>");
        html.push_str(&self.svg());
        html.push_str("</figure>\n");
        html
    }

    fn bounds(&self) -> ((f64, f64), (f64, f64)) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
        let x = (least(&mut points().map(|p| p.0)), most(&mut points().map(|p| p.0)));
        let mut y = (least(&mut points().map(|p| p.1)), most(&mut points().map(|p| p.1)));
        if self.y_scale == Scale::Linear {
            y = (0.0, y.1 * 1.05);
        }
        let apart = |(from, to): (f64, f64)| if to > from { (from, to) } else { (from, from + 1.0) };
        if points().next().is_none() { ((0.0, 1.0), (0.1, 1.0)) } else { (apart(x), apart(y)) }
    }

    fn svg(&self) -> String {
        let (x, y) = self.bounds();
        let y_marks = self.y_scale.marks(y.0, y.1);
        let y_ends = match self.y_scale {
            // Whole powers.
            Scale::Log => (y_marks.first().map_or(y.0, |mark| mark.0), y_marks.last().map_or(y.1, |mark| mark.0)),
            _ => y,
        };
        let place = |scale: Scale, ends: (f64, f64)| (scale.place(ends.0), scale.place(ends.1));
        let frame = Frame { x: place(self.x_scale, x), y: place(self.y_scale, y_ends) };
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">", escape(self.title));
        for (value, text) in y_marks {
            let at = frame.y(self.y_scale.place(value));
            let _ = write!(
                svg,
                "<line class=grid x1={LEFT} x2={} y1={at:.1} y2={at:.1} /><text x={} y={:.1} text-anchor=end>{text}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            );
        }
        for (value, text) in self.x_scale.marks(x.0, x.1) {
            let at = frame.x(self.x_scale.place(value));
            let (low, below) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 16.0);
            let _ = write!(
                svg,
                "<line class=grid x1={at:.1} x2={at:.1} y1={TOP} y2={low} /><text x={at:.1} y={below} text-anchor=middle>{text}</text>"
            );
        }
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let _ = write!(
            svg,
            "<text class=axis x={:.1} y={} text-anchor=middle>{}</text>\
             <text class=axis transform=\"translate(14 {middle}) rotate(-90)\" text-anchor=middle>{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 4.0,
            escape(self.x),
            escape(self.y)
        );
        for line in &self.lines {
            let points: Vec<String> = line
                .points
                .iter()
                .map(|(x, y)| format!("{:.1},{:.1}", frame.x(self.x_scale.place(*x)), frame.y(self.y_scale.place(*y))))
                .collect();
            let dashed = if line.dashed { " dashed" } else { "" };
            let _ = write!(
                svg,
                "<polyline class=\"line c{}{dashed}\" points=\"{}\"><title>{}</title></polyline>",
                line.colour % COLOURS,
                points.join(" "),
                escape(&line.name)
            );
        }
        svg.push_str("</svg>");
        svg
    }
}

/// Bars of parts, one under the other: name, and value of each part.
pub fn bars(title: &str, unit: &str, parts: &[&str], rows: &[(String, Vec<f64>)]) -> String {
    const ROW: f64 = 24.0;
    const NAMES: f64 = 90.0;
    let most = rows.iter().map(|(_, values)| values.iter().sum::<f64>()).fold(0.0, f64::max).max(1e-9);
    let height = ROW * rows.len() as f64 + 4.0;
    let mut html = format!("<figure><figcaption>{}</figcaption><div class=legend>", escape(title));
    for (no, part) in parts.iter().enumerate() {
        let _ = write!(html, "<span class=c{no}><i></i>{}</span>", escape(part));
    }
    let _ = write!(html, "</div><svg viewBox=\"0 0 {WIDTH} {height}\" role=img aria-label=\"{}\">", escape(title));
    let wide = (WIDTH - NAMES - 90.0) / most;
    for (no, (name, values)) in rows.iter().enumerate() {
        let top = no as f64 * ROW + 4.0;
        let _ = write!(html, "<text x={} y={:.1} text-anchor=end>{}</text>", NAMES - 8.0, top + 13.0, escape(name));
        let mut at = NAMES;
        for (part, value) in values.iter().enumerate() {
            let width = (value * wide).max(0.0);
            let _ = write!(
                html,
                "<rect class=\"bar c{part}\" x={at:.1} y={top:.1} width={width:.1} height={}><title>{}: {value:.2} {unit}</title></rect>",
                ROW - 6.0,
                escape(parts[part])
            );
            at += width;
        }
        let sum: f64 = values.iter().sum();
        let _ = write!(html, "<text x={:.1} y={:.1}>{sum:.2} {unit}</text>", at + 6.0, top + 13.0);
    }
    html.push_str("</svg></figure>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_cover_the_axis() {
        assert_eq!(
            Scale::Linear.marks(0.0, 230.0).iter().map(|mark| mark.0).collect::<Vec<_>>(),
            [0.0, 50.0, 100.0, 150.0, 200.0]
        );
        assert_eq!(
            Scale::Log.marks(0.4, 30.0).iter().map(|mark| mark.1.as_str()).collect::<Vec<_>>(),
            ["0.1", "1", "10", "100"]
        );
        assert!((Scale::Nines.place(99.0) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_plot_of_nothing_and_of_one_point_has_only_numbers_in_it() {
        for points in [vec![], vec![(1.0, 1.0)], vec![(0.0, 0.0), (1.0, 0.0)]] {
            for y_scale in [Scale::Linear, Scale::Log] {
                let line = Line { name: "a<b".into(), colour: 0, dashed: false, points: points.clone() };
                let plot = Plot { title: "t", x: "s", y: "ms", x_scale: Scale::Linear, y_scale, lines: vec![line] };
                let html = plot.render();
                assert!(!html.contains("NaN") && !html.contains("inf") && !html.contains("a<b"), "{html}");
            }
        }
    }
}
