// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of a program cannot be kept, told before anything is touched.

use std::fs;

use crate::{Error, files, maps, memory, stop};

/// Everything that stands in the way, each with its cause. `giver` started it.
pub fn objections(pid: i32, giver: i32) -> Result<Vec<String>, Error> {
    memory::supported()?;
    let (areas, mut all) = maps::read(pid)?;
    all.extend(maps::shared(pid, &areas));
    files::read(pid, giver, &mut all)?;
    all.extend(tree(pid));
    let of = pid.to_string();
    if stop::status(&of, "Seccomp").is_some_and(|mode| mode != "0") {
        all.push("it has a seccomp filter, which is not kept".into());
    }
    if stop::status(&of, "x86_Thread_features").is_some_and(|f| f.contains("shstk")) {
        all.push("it has shadow stacks, which are not kept".into());
    }
    if stop::status(&of, "State").is_some_and(|s| s.starts_with('Z')) {
        all.push("its main thread has ended".into());
    }
    if fs::read_to_string(format!("/proc/{pid}/timers")).is_ok_and(|t| !t.is_empty()) {
        all.push("it has timers of timer_create, which are not kept yet".into());
    }
    Ok(all)
}

/// Children, alive or not waited for.
pub fn tree(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut found = Vec::new();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            found.push(format!(
                "it has a child, process {child} ({}); only single processes are kept yet, try again when it has ended",
                name.trim()
            ));
        }
    }
    found
}
