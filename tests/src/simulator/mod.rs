//! A simulated training job: tens to a hundred thousand ranks in Megatron's parallel layout (tensor × data × pipeline,
//! with expert groups inside the data-parallel ones), with realistic noise and injected faults, told to the detector in
//! the form in which agents would tell it.
//!
//! Nothing here knows how detection works. The job is executed, not drawn from a distribution of outcomes: every rank
//! runs its program of kernels on streams ([`program`], [`workload`]), collectives end when their last member has come
//! ([`engine`]), and noise and faults ([`noise`], [`fault`]) change how long a kernel takes or whether it runs at all.
//! What is observable follows ([`telemetry`]).

pub mod engine;
pub mod fault;
pub mod layout;
pub mod noise;
pub mod program;
pub mod telemetry;
pub mod workload;

#[cfg(test)]
mod tests;
