//! A wall clock that a test moves, for one process.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::process;
use super::scratch::Scratch;

/// Moves the wall clock of a process by the seconds in the file `$CLOCK_OFFSET`.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int outcome = real(clock, now);
  FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("CLOCK_OFFSET"), "r") : NULL;
  if (file) {
    long seconds = 0;
    if (fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds;
    fclose(file);
  }
  return outcome;
}
"#;

/// The environment of a dynamically linked process whose wall clock differs by the seconds in the
/// file `offset` of that folder. Needs a C compiler.
///
/// # Errors
/// The library cannot be compiled.
pub fn movable_clock(folder: &Scratch) -> Result<[(&'static str, PathBuf); 2]> {
    let source = folder.write("clock.c", CLOCK)?;
    let library = folder.path().join("clock.so");
    let offset = folder.write("offset", "0")?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    process::output(&mut compiler)?;
    Ok([("CLOCK_OFFSET", offset), ("LD_PRELOAD", library)])
}
