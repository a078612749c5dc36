// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables and lists for human readers.

use std::fmt::Write as _;

use crate::admin::{CounterValues, KeyInfo, LimitsInfo, SessionInfo};
use crate::audit::Line;
use crate::doctor::Check;

/// Columns as wide as needed; the first row is the heading.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width: Vec<usize> = (0..columns)
        .map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&width)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(out, "{}", line.join("  ").trim_end());
    }
    out
}

fn heading(names: &str) -> Vec<String> {
    names.split(' ').map(str::to_owned).collect()
}

/// A limit, 0 meaning that there is none of its own.
fn limit(value: u64) -> String {
    if value == 0 {
        "-".to_owned()
    } else {
        value.to_string()
    }
}

pub(super) fn keys(keys: &[KeyInfo]) -> String {
    let mut rows = vec![heading(
        "NAME ID STATUS DOMAIN SESSIONS PAGES RANGES MODES EXPIRES",
    )];
    rows.extend(keys.iter().map(|k| {
        vec![
            k.name.clone(),
            k.id.clone(),
            k.status.clone(),
            k.domain.clone(),
            limit(k.sessions.into()),
            limit(k.pages),
            limit(k.ranges.into()),
            k.modes.clone(),
            k.expires.clone().unwrap_or_else(|| "never".to_owned()),
        ]
    }));
    table(&rows)
}

pub(super) fn sessions(sessions: &[SessionInfo]) -> String {
    let mut rows = vec![heading(
        "DOMAIN DOMID SESSION KEY AGE PAGES RANGES CYCLES FIXED FORWARDED CROSSINGS",
    )];
    rows.extend(sessions.iter().map(|s| {
        let mut key = s.key.clone().unwrap_or_else(|| s.tag.clone());
        if s.ended {
            key.push_str(" (ended)");
        }
        vec![
            s.domain.clone().unwrap_or_default(),
            s.domid.to_string(),
            s.session.to_string(),
            key,
            format!("{}.{}s", s.age_ms / 1000, s.age_ms % 1000 / 100),
            s.pages.to_string(),
            s.ranges.to_string(),
            count(s.counters.cycles),
            count(s.counters.faults_fixed),
            count(s.counters.faults_forwarded),
            count(s.counters.crossings),
        ]
    }));
    table(&rows)
}

/// A daemon which is older than a counter does not tell of it.
fn count(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

pub(super) fn counters(c: &CounterValues) -> String {
    let rows = [
        (
            "crossings",
            c.crossings,
            "operations entered, restarts included",
        ),
        ("restarts", c.restarts, "of which continued an earlier one"),
        (
            "faults_fixed",
            c.faults_fixed,
            "first writes granted again by Xen",
        ),
        (
            "faults_forwarded",
            c.faults_forwarded,
            "left to the guest kernel",
        ),
        (
            "faults_spurious",
            c.faults_spurious,
            "entry was writable already",
        ),
        (
            "faults_xen",
            c.faults_xen,
            "of the fixed ones: Xen's own writes",
        ),
        (
            "guest_updates",
            c.guest_updates,
            "tracked entries rewritten by the guest",
        ),
        (
            "write_protected",
            c.write_protected,
            "entries made read-only",
        ),
        ("walks", c.walks, "whole 2 MiB chunks walked"),
        ("forks", c.forks, "which may have shared tracked pages"),
        ("flushes", c.flushes, "TLB shootdowns asked for"),
        ("cycles", c.cycles, "ends and commits"),
        (
            "watched",
            c.watched,
            "writes found in a dirty bit instead of a fault",
        ),
        ("heated", c.heated, "autoxen: pages left writable from now"),
        ("cooled", c.cooled, "autoxen: pages protected again"),
        ("emulated", c.emulated, "emulxen: stores performed by Xen"),
        (
            "degraded",
            c.degraded,
            "emulxen: stores which could not be: page entry",
        ),
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, value, what)| vec![(*name).to_owned(), count(*value), (*what).to_owned()])
        .collect();
    table(&rows)
}

pub(super) fn limits(l: &LimitsInfo) -> String {
    let row = |name: &str, max: u64, used: Option<u64>| {
        vec![
            name.to_owned(),
            max.to_string(),
            used.map_or("".to_owned(), |u| u.to_string()),
        ]
    };
    let mut out = format!(
        "{} (domain {})\n",
        l.domain.as_deref().unwrap_or("?"),
        l.domid
    );
    out.push_str(&table(&[
        heading("WHAT LIMIT USED"),
        row(
            "sessions",
            l.max_sessions.into(),
            Some(l.used_sessions.into()),
        ),
        row("pages", l.max_pages, Some(l.used_pages)),
        row("tokens", l.max_tokens.into(), Some(l.used_tokens.into())),
        row("ranges/session", l.max_ranges.into(), None),
    ]));
    let _ = writeln!(out, "faults always left to the guest: {}", l.forward);
    out
}

pub(super) fn audit(line: &Line) -> String {
    let Some(r) = &line.record else {
        return format!("(not a whole line) {}\n", line.text.escape_debug());
    };
    let mut out = format!("{} #{} {} {}", r.time, r.seq, r.event, r.decision);
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // What clients caused may hold anything; the terminal gets text.
            let _ = write!(out, " {name}={}", value.escape_debug());
        }
    };
    field("reason", r.reason.clone());
    field("key", r.key.clone());
    field("id", r.id.clone());
    field("domain", r.domain.clone());
    field("domid", r.domid.map(|d| d.to_string()));
    field("peer", r.peer.clone());
    field("suppressed", r.suppressed.map(|n| n.to_string()));
    field("detail", r.detail.clone().filter(|d| !d.is_empty()));
    out.push('\n');
    out
}

pub(super) fn checks(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let mark = if check.ok { "ok  " } else { "FAIL" };
        let _ = writeln!(out, "{mark} {}: {}", check.name, check.found);
        if let Some(advice) = check.advice {
            let _ = writeln!(out, "     -> {advice}");
        }
    }
    out
}
