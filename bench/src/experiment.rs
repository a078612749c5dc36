// SPDX-License-Identifier: MIT OR Apache-2.0
//! Experiments: one JSON object a line, in and out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cases::CASES;
use crate::counts::count;
use crate::micro::Micro;
use crate::program::Program;
use crate::workload::Workload;
use crate::{gate, trackers};

/// Something to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Experiment {
    /// Whether a tracker works here.
    Probe {
        /// Its name.
        tracker: String,
    },
    /// The gate.
    Gate {
        /// Round trips.
        calls: u32,
    },
    /// Table 2.
    Counts {
        /// Operations on each structure.
        operations: u32,
    },
    /// The microbenchmark.
    Micro(Micro),
    /// A data structure.
    Workload(Workload),
    /// The program.
    Program(Program),
}

impl Experiment {
    /// One line of a plan.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &str) -> Result<Self, String> {
        serde_json::from_str(line).map_err(|error| error.to_string())
    }

    /// Runs it: its own parameters and what came of it, as one flat object.
    /// `status` is `ok`, `wrong` (pages were missed or memory was damaged) or
    /// `failed`, with a `reason`.
    #[must_use]
    pub fn run(&self) -> Value {
        let mut line = json!(self);
        // One that does not fit its area must not end the others.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.outcome()))
            .unwrap_or_else(|_| Err("it panicked; see standard error".to_owned()));
        match outcome {
            Ok(outcome) => {
                let bad = |key| outcome.get(key).and_then(Value::as_u64).unwrap_or(0) > 0;
                line["status"] = json!(if bad("missed") || bad("damaged") {
                    "wrong"
                } else {
                    "ok"
                });
                for (key, value) in outcome.as_object().into_iter().flatten() {
                    line[key] = value.clone();
                }
            }
            Err(reason) => return self.refuse(&reason),
        }
        line
    }

    /// The tracker it is about, if any.
    #[must_use]
    pub fn tracker(&self) -> Option<&str> {
        match self {
            Self::Probe { tracker } => Some(tracker),
            Self::Micro(micro) => Some(&micro.tracker),
            Self::Workload(workload) => Some(&workload.tracker),
            Self::Program(program) => Some(&program.tracker),
            Self::Gate { .. } | Self::Counts { .. } => None,
        }
    }

    /// What [`Self::run`] returns if it fails.
    #[must_use]
    pub fn refuse(&self, reason: &str) -> Value {
        let mut line = json!(self);
        line["status"] = json!("failed");
        line["reason"] = json!(reason);
        line
    }

    fn outcome(&self) -> Result<Value, String> {
        Ok(match self {
            Self::Probe { tracker } => {
                let region = trackers::open(tracker, 4)?;
                json!({ "locked": region.locked() })
            }
            Self::Gate { calls } => json!(gate::run(*calls)?),
            Self::Counts { operations } => json!({ "rows": table(*operations) }),
            Self::Micro(micro) => json!(micro.run()?),
            Self::Workload(workload) => json!(workload.run()?),
            Self::Program(program) => json!(program.run()?),
        })
    }
}

fn table(operations: u32) -> Vec<Value> {
    let row = |case: &crate::cases::Case| {
        let (one, five) = (count(*case, operations, 1), count(*case, operations, 5));
        let pair = |(writes, pages): (f64, f64)| json!({ "writes": writes, "pages": pages });
        json!({
            "structure": case.structure, "op": case.op, "footprint": one.footprint,
            "opt1": pair(one.averages()), "opt5": pair(five.averages()),
            "paper1": pair(case.paper.opt1), "paper5": pair(case.paper.opt5),
        })
    };
    CASES.iter().map(row).collect()
}
