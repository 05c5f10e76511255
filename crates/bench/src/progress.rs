//! Bars for people who wait; in a pipe there are none.

use indicatif::{ProgressBar, ProgressStyle};

/// Over so many events.
pub fn events(count: usize) -> ProgressBar {
    bar(count as u64, "{bar:30} {human_pos}/{human_len} events {elapsed}, {eta} left")
}

/// Over so many cases.
pub fn cases(count: usize) -> ProgressBar {
    bar(count as u64, "{bar:30} {pos}/{len} cases {elapsed} {msg}")
}

/// Over so many seconds.
pub fn seconds(count: u64, what: &str) -> ProgressBar {
    bar(count, "{bar:30} {pos}/{len} s {msg}").with_message(what.to_owned())
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the templates are valid");
    ProgressBar::new(length).with_style(style)
}
