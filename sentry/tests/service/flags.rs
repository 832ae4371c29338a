//! The flags with their defaults.

use clap::CommandFactory as _;

#[test]
fn help_and_defaults() {
    let help = sentry::Flags::command().term_width(100).render_long_help();
    insta::assert_snapshot!(help.to_string());
}
