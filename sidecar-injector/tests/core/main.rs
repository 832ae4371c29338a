//! The injector's core through its public API: values in, values out.
#![cfg(test)]

mod annotations;
mod cases;
mod components;
mod defaults;
mod native;
mod offline;
mod properties;
mod reference;
mod reviews;
mod setting;
mod worked_example;
