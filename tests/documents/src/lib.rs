// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nothing: the code and the commands in README and docs are tested here.
