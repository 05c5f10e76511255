//! What a wasm instruction costs: the Internet Computer's weights, as wasmtime fuel.
//!
//! The numbers are those of the replica's `instruction_to_cost` for 32-bit memory. Fuel weights
//! are bytes, so the few instructions of weight 300 are set to 255 here; `memory.grow`, the only
//! one of them that canisters use often, gets its missing [`MEMORY_GROW_REST`] after the message.

use wasmtime::OperatorCost;

/// Dirtying a 4 KiB page of heap or stable memory costs as much as a thousand instructions.
pub const DIRTY_PAGE: u64 = 1000;
pub const MEMORY_GROW_REST: u64 = 300 - 255;

pub const UPDATE_LIMIT: u64 = 40_000_000_000;
pub const QUERY_LIMIT: u64 = 5_000_000_000;
pub const INSPECT_LIMIT: u64 = 200_000_000;
pub const INSTALL_LIMIT: u64 = 300_000_000_000;
/// What a canister may spend on a system subnet, or on one made for benchmarks.
pub const SYSTEM_SUBNET_FACTOR: u64 = 10;
pub const BENCHMARK_LIMIT: u64 = 1 << 60;

macro_rules! set {
    ($cost:ident, $weight:literal: $($op:ident)*) => { $( $cost.$op = $weight; )* };
}

pub fn operator_costs() -> OperatorCost {
    let mut cost = OperatorCost::new();
    cost.variable.table_grow_per_element = 0;
    control(&mut cost);
    floats(&mut cost);
    memory_and_tables(&mut cost);
    vectors(&mut cost);
    cost
}

fn control(cost: &mut OperatorCost) {
    set!(cost, 0: Block Else End Loop);
    set!(cost, 1: Nop Drop Unreachable Return);
    set!(cost, 2: If Br BrIf BrTable GlobalGet GlobalSet);
    set!(cost, 3: ReturnCall);
    set!(cost, 5: Call);
    set!(cost, 10: CallIndirect I32DivS I32DivU I32RemS I32RemU I64DivS I64DivU I64RemS I64RemU);
    set!(cost, 60: ReturnCallIndirect);
}

fn floats(cost: &mut OperatorCost) {
    set!(cost, 2: F32Add F32Sub F32Mul F32Ceil F32Floor F32Trunc F32Nearest F32Copysign);
    set!(cost, 2: F64Add F64Sub F64Mul F64Ceil F64Floor F64Trunc F64Nearest);
    set!(cost, 3: F32Div F64Copysign F32Eq F32Ne F32Lt F32Gt F32Le F32Ge);
    set!(cost, 3: F64Eq F64Ne F64Lt F64Gt F64Le F64Ge);
    set!(cost, 3: F32ConvertI32S F64ConvertI64S F32ConvertI64S F64ConvertI32S);
    set!(cost, 5: F64Div F32Sqrt);
    set!(cost, 8: F64Sqrt);
    set!(cost, 16: F64ConvertI32U F32ConvertI64U F32ConvertI32U F64ConvertI64U);
    set!(cost, 18: F32Min F32Max F64Min F64Max);
    set!(cost, 20: I64TruncSatF32S I64TruncSatF32U I64TruncSatF64S I64TruncSatF64U);
    set!(cost, 20: I32TruncSatF32S I32TruncSatF32U I32TruncSatF64S I32TruncSatF64U);
    set!(cost, 20: I32TruncF32S I32TruncF32U I32TruncF64S I32TruncF64U);
    set!(cost, 20: I64TruncF32S I64TruncF32U I64TruncF64S I64TruncF64U);
}

fn memory_and_tables(cost: &mut OperatorCost) {
    set!(cost, 5: TableGet TableSet RefIsNull);
    set!(cost, 20: MemorySize);
    set!(cost, 100: TableSize MemoryFill MemoryCopy MemoryInit TableFill TableCopy TableInit);
    set!(cost, 130: RefFunc);
    set!(cost, 255: MemoryGrow TableGrow DataDrop ElemDrop);
}

/// Most vector instructions cost 1; these do not.
fn vectors(cost: &mut OperatorCost) {
    set!(cost, 2: I8x16LtU I8x16GtU I16x8LtU I16x8GtU I32x4LtU I32x4GtU I8x16ShrU);
    set!(cost, 2: I16x8ExtAddPairwiseI8x16U I16x8Shl I16x8ShrS I16x8ShrU);
    set!(cost, 2: I16x8ExtMulHighI8x16S I16x8ExtMulHighI8x16U I32x4Shl I32x4ShrS I32x4ShrU I32x4Mul);
    set!(cost, 2: I32x4ExtMulLowI16x8S I32x4ExtMulHighI16x8S I32x4ExtMulLowI16x8U);
    set!(cost, 2: I32x4ExtMulHighI16x8U I64x2Shl I64x2ShrU);
    set!(cost, 2: F32x4Ceil F32x4Floor F32x4Trunc F32x4Nearest F32x4Abs F32x4Neg);
    set!(cost, 2: F32x4Add F32x4Sub F32x4Mul F64x2Ceil F64x2Floor F64x2Trunc F64x2Nearest);
    set!(cost, 2: F64x2Abs F64x2Neg F64x2Add F64x2Sub F64x2Mul);
    set!(cost, 2: I32x4TruncSatF32x4S I32x4TruncSatF64x2SZero);
    set!(cost, 3: I8x16Shuffle I8x16Popcnt I8x16Shl I8x16ShrS I32x4ExtAddPairwiseI16x8U);
    set!(cost, 3: I64x2ShrS I32x4TruncSatF64x2UZero);
    set!(cost, 4: I64x2Mul F32x4Min F32x4Max F64x2Min I32x4TruncSatF32x4U F32x4ConvertI32x4U);
    set!(cost, 5: F32x4Sqrt F64x2Max);
    set!(cost, 10: F32x4Div);
    set!(cost, 12: F64x2Div);
    set!(cost, 14: F64x2Sqrt);
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmparser::{BlockType, MemArg, Operator};

    const AT: MemArg = MemArg { align: 0, max_align: 0, offset: 0, memory: 0 };

    #[track_caller]
    fn check(op: Operator, expected: i64) {
        assert_eq!(operator_costs().cost(&op), expected, "{op:?}");
    }

    #[test]
    fn block_structure_is_free() {
        check(Operator::End, 0);
        check(Operator::Else, 0);
        check(Operator::Loop { blockty: BlockType::Empty }, 0);
    }

    #[test]
    fn simple_instructions_cost_one() {
        check(Operator::I32Const { value: 1 }, 1);
        check(Operator::LocalGet { local_index: 0 }, 1);
        check(Operator::I64Load { memarg: AT }, 1);
        check(Operator::I32Store8 { memarg: AT }, 1);
        check(Operator::I64Mul, 1);
        check(Operator::Select, 1);
        check(Operator::Drop, 1);
        check(Operator::Return, 1);
        check(Operator::F64PromoteF32, 1);
        check(Operator::V128Load { memarg: AT }, 1);
        check(Operator::I8x16AvgrU, 1);
    }

    #[test]
    fn branches_and_calls_cost_what_the_replica_says() {
        check(Operator::BrIf { relative_depth: 0 }, 2);
        check(Operator::GlobalGet { global_index: 0 }, 2);
        check(Operator::Call { function_index: 0 }, 5);
        check(Operator::CallIndirect { type_index: 0, table_index: 0 }, 10);
        check(Operator::ReturnCall { function_index: 0 }, 3);
    }

    #[test]
    fn arithmetic_is_weighted_by_difficulty() {
        check(Operator::I32DivU, 10);
        check(Operator::I64RemS, 10);
        check(Operator::F32Div, 3);
        check(Operator::F64Div, 5);
        check(Operator::F32Sqrt, 5);
        check(Operator::F64Sqrt, 8);
        check(Operator::F64Max, 18);
        check(Operator::F64Lt, 3);
        check(Operator::F64ConvertI64S, 3);
        check(Operator::F64ConvertI64U, 16);
        check(Operator::I32TruncSatF64U, 20);
        check(Operator::F64x2Sqrt, 14);
        check(Operator::I64x2Mul, 4);
    }

    #[test]
    fn memory_and_table_instructions_are_dear() {
        check(Operator::MemorySize { mem: 0 }, 20);
        check(Operator::MemoryFill { mem: 0 }, 100);
        check(Operator::MemoryCopy { dst_mem: 0, src_mem: 0 }, 100);
        check(Operator::TableGet { table: 0 }, 5);
        check(Operator::TableSize { table: 0 }, 100);
        check(Operator::RefFunc { function_index: 0 }, 130);
        check(Operator::MemoryGrow { mem: 0 }, 255);
        assert_eq!(operator_costs().variable.memory_copy_per_byte, 1);
        assert_eq!(operator_costs().variable.table_grow_per_element, 0);
    }
}
