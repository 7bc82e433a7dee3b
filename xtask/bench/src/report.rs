//! What a benchmark prints: a table, or one JSON object per line. A goal that is missed is printed
//! as missed.

use crate::measure::Spread;

/// Which side of a goal is good.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// A figure without a goal.
    None,
}

/// Collects figures and prints each as it comes.
pub struct Report {
    json: bool,
    missed: u32,
}

impl Report {
    pub fn new(json: bool) -> Report {
        if !json {
            println!(
                "{:<58} {:>14} {:<16} {:<12} met",
                "name", "value", "unit", "goal"
            );
        }
        Report { json, missed: 0 }
    }

    /// Prints a figure with its quartiles.
    pub fn spread(&mut self, name: &str, spread: Spread, unit: &str, goal: Goal) {
        let name = format!(
            "{name} [{} .. {}]",
            short(spread.quartiles.0),
            short(spread.quartiles.1)
        );
        self.figure(&name, spread.median, unit, goal);
    }

    pub fn figure(&mut self, name: &str, value: f64, unit: &str, goal: Goal) {
        let (text, met) = match goal {
            Goal::AtLeast(least) => (format!(">= {least}"), Some(value >= least)),
            Goal::AtMost(most) => (format!("<= {most}"), Some(value <= most)),
            Goal::None => (String::new(), None),
        };
        self.missed += u32::from(met == Some(false));
        if self.json {
            println!(
                "{}",
                serde_json::json!({"name": name, "value": value, "unit": unit, "goal": text, "met": met})
            );
        } else {
            let met = met.map_or("", |met| if met { "yes" } else { "MISSED" });
            println!(
                "{name:<58} {:>14} {unit:<16} {text:<12} {met}",
                short(value)
            );
        }
    }

    /// Closes the report; missed goals are no failure of the program.
    pub fn finish(self) {
        if self.missed > 0 && !self.json {
            println!("{} goals were missed", self.missed);
        }
    }
}

/// Three or four significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
