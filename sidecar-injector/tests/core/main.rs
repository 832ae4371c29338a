//! The injector's core through its public API: data in, data out.
#![cfg(test)]

mod annotations;
mod components;
mod properties;
mod reference;
mod reviews;
mod setting;
mod worked_example;
