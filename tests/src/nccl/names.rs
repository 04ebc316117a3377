//! NCCL's names and numbers for functions, element types, algorithms and protocols. API v1 hands over numbers, later
//! versions the names.

use std::ffi::CStr;

/// What an operation does (`ncclFunc_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "NCCL's own names")]
pub enum Function {
    Broadcast,
    Reduce,
    AllGather,
    ReduceScatter,
    AllReduce,
    SendRecv,
    Send,
    Recv,
}

impl Function {
    /// NCCL's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// NCCL's name.
    pub fn name(self) -> &'static CStr {
        match self {
            Self::Broadcast => c"Broadcast",
            Self::Reduce => c"Reduce",
            Self::AllGather => c"AllGather",
            Self::ReduceScatter => c"ReduceScatter",
            Self::AllReduce => c"AllReduce",
            Self::SendRecv => c"SendRecv",
            Self::Send => c"Send",
            Self::Recv => c"Recv",
        }
    }
}

/// Element type (`ncclDataType_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "NCCL's own names")]
pub enum Datatype {
    Int8,
    Uint8,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Float16,
    Float32,
    Float64,
    Bfloat16,
}

impl Datatype {
    /// NCCL's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// NCCL's name.
    pub fn name(self) -> &'static CStr {
        match self {
            Self::Int8 => c"ncclInt8",
            Self::Uint8 => c"ncclUint8",
            Self::Int32 => c"ncclInt32",
            Self::Uint32 => c"ncclUint32",
            Self::Int64 => c"ncclInt64",
            Self::Uint64 => c"ncclUint64",
            Self::Float16 => c"ncclFloat16",
            Self::Float32 => c"ncclFloat32",
            Self::Float64 => c"ncclFloat64",
            Self::Bfloat16 => c"ncclBfloat16",
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Int8 | Self::Uint8 => 1,
            Self::Float16 | Self::Bfloat16 => 2,
            Self::Int32 | Self::Uint32 | Self::Float32 => 4,
            Self::Int64 | Self::Uint64 | Self::Float64 => 8,
        }
    }
}

/// Algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "NCCL's own names")]
pub enum Algorithm {
    Tree,
    Ring,
}

impl Algorithm {
    /// NCCL's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// NCCL's name.
    pub fn name(self) -> &'static CStr {
        match self {
            Self::Tree => c"TREE",
            Self::Ring => c"RING",
        }
    }
}

/// Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "NCCL's own names")]
pub enum Protocol {
    Ll,
    Ll128,
    Simple,
}

impl Protocol {
    /// NCCL's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// NCCL's name.
    pub fn name(self) -> &'static CStr {
        match self {
            Self::Ll => c"LL",
            Self::Ll128 => c"LL128",
            Self::Simple => c"SIMPLE",
        }
    }
}
