//! Instructions: operator by operator, and of whole messages worked out by hand.
//!
//! Both are the replica's numbers (`instruction_to_cost` for 32-bit memory, and its charges for
//! pages and bytes). What the system calls cost stands with their table, in `system_api.rs`.

use std::collections::BTreeMap;

use local_ic::errors::Fault;
use local_ic::wasm::costs::operator_costs;
use local_ic::wasm::host::Mode;

use crate::lab::{LIMIT, Lab};

macro_rules! define_costs_by_name {
    ($(@$proposal:ident $op:ident $({ $($arg:ident: $ty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        /// Every operator that there is, and what we charge for it.
        fn costs_by_name() -> BTreeMap<&'static str, u8> {
            let costs = operator_costs();
            BTreeMap::from([$((stringify!($op), costs.$op)),*])
        }
    };
}
wasmparser::for_each_operator!(define_costs_by_name);

/// All others cost one. Weights are bytes, so what costs 300 is set to 255; a host function adds
/// the rest for `memory.grow`.
const WEIGHTS: &[(u8, &str)] = &[
    (0, "Block Else End Loop"),
    (2, "If Br BrIf BrTable GlobalGet GlobalSet"),
    (2, "F32Add F32Sub F32Mul F32Ceil F32Floor F32Trunc F32Nearest F32Copysign"),
    (2, "F64Add F64Sub F64Mul F64Ceil F64Floor F64Trunc F64Nearest"),
    (3, "F32Div F64Copysign ReturnCall"),
    (3, "F32Eq F32Ne F32Lt F32Gt F32Le F32Ge F64Eq F64Ne F64Lt F64Gt F64Le F64Ge"),
    (3, "F32ConvertI32S F64ConvertI64S F32ConvertI64S F64ConvertI32S"),
    (5, "F64Div F32Sqrt Call TableGet TableSet RefIsNull"),
    (8, "F64Sqrt"),
    (10, "I32DivS I32DivU I32RemS I32RemU I64DivS I64DivU I64RemS I64RemU CallIndirect"),
    (16, "F64ConvertI32U F32ConvertI64U F32ConvertI32U F64ConvertI64U"),
    (18, "F32Min F32Max F64Min F64Max"),
    (20, "I64TruncSatF32S I64TruncSatF32U I64TruncSatF64S I64TruncSatF64U MemorySize"),
    (20, "I32TruncSatF32S I32TruncSatF32U I32TruncSatF64S I32TruncSatF64U"),
    (20, "I32TruncF32S I32TruncF32U I32TruncF64S I32TruncF64U"),
    (20, "I64TruncF32S I64TruncF32U I64TruncF64S I64TruncF64U"),
    (60, "ReturnCallIndirect"),
    (100, "MemoryFill MemoryCopy MemoryInit TableFill TableCopy TableInit TableSize"),
    (130, "RefFunc"),
    (255, "MemoryGrow TableGrow DataDrop ElemDrop"),
    (2, "I8x16LtU I8x16GtU I16x8LtU I16x8GtU I32x4LtU I32x4GtU I8x16ShrU"),
    (2, "I16x8ExtAddPairwiseI8x16U I16x8Shl I16x8ShrS I16x8ShrU"),
    (2, "I16x8ExtMulHighI8x16S I16x8ExtMulHighI8x16U I32x4Shl I32x4ShrS I32x4ShrU I32x4Mul"),
    (2, "I32x4ExtMulLowI16x8S I32x4ExtMulHighI16x8S I32x4ExtMulLowI16x8U"),
    (2, "I32x4ExtMulHighI16x8U I64x2Shl I64x2ShrU"),
    (2, "F32x4Ceil F32x4Floor F32x4Trunc F32x4Nearest F32x4Abs F32x4Neg F32x4Add F32x4Sub"),
    (2, "F32x4Mul F64x2Ceil F64x2Floor F64x2Trunc F64x2Nearest F64x2Abs F64x2Neg F64x2Add"),
    (2, "F64x2Sub F64x2Mul I32x4TruncSatF32x4S I32x4TruncSatF64x2SZero"),
    (3, "I8x16Shuffle I8x16Popcnt I8x16Shl I8x16ShrS I32x4ExtAddPairwiseI16x8U I64x2ShrS"),
    (3, "I32x4TruncSatF64x2UZero"),
    (4, "I64x2Mul F32x4Min F32x4Max F64x2Min I32x4TruncSatF32x4U F32x4ConvertI32x4U"),
    (5, "F32x4Sqrt F64x2Max"),
    (10, "F32x4Div"),
    (12, "F64x2Div"),
    (14, "F64x2Sqrt"),
];

#[test]
fn every_operator_has_the_replicas_weight() {
    let costs = costs_by_name();
    let mut expected: BTreeMap<&str, u8> = costs.keys().map(|name| (*name, 1)).collect();
    for (weight, names) in WEIGHTS {
        for name in names.split(' ') {
            assert_eq!(expected.insert(name, *weight), Some(1), "{name}");
        }
    }
    assert_eq!(costs, expected);
}

#[test]
fn bulk_operators_cost_one_more_for_each_byte_or_element() {
    let variable = operator_costs().variable;
    let by_size = [
        variable.memory_copy_per_byte,
        variable.memory_fill_per_byte,
        variable.memory_init_per_byte,
        variable.table_copy_per_element,
        variable.table_fill_per_element,
        variable.table_init_per_element,
    ];
    assert_eq!(by_size, [1; 6]);
    assert_eq!((variable.memory_grow_per_page, variable.table_grow_per_element), (0, 0));
}

const GOLDEN: &[(&str, u64)] = &[
    ("nothing", 1),
    // Nine in the loop: get, const, add, set; get, const, lt, br_if (2).
    ("count", 1 + 9 * 1000),
    ("divide", 1 + (2 + 10 + 1) + (1 + 8 + 1) + (1 + 20 + 1)),
    ("call", 1 + 5 + 1),
    ("call_indirect", 1 + 1 + 10 + 1),
    ("same_content", 1 + 3),
    ("page", 1 + 3 + 1000),
    ("fifty_pages", 1 + 50 * (5 + 9 + 1000)),
    ("fill", 1 + 3 + 100 + 4096 + 1000),
    ("copy", 1 + 3 + 100 + 100),
    ("size", 1 + 20 + 1),
    ("grow", 1 + 1 + 300 + 1),
    ("stable_write", 1 + GROW_STABLE + WRITE_STABLE + 1000),
    ("stable_write_twice", 1 + GROW_STABLE + 2 * WRITE_STABLE + 1000),
    ("stable_read", 1 + GROW_STABLE + 3 + 5 + 20 + 10),
];
/// A call and the entry; in it const, call, 100 and drop.
const GROW_STABLE: u64 = 6 + 1 + 5 + 100 + 1;
/// A call and the entry; in it three const, call, 20, and the bytes.
const WRITE_STABLE: u64 = 6 + 3 + 5 + 20 + 10;

#[test]
fn messages_cost_to_the_last_instruction_what_the_replica_would_charge() {
    let lab = Lab::new(include_str!("golden.wat"));
    for (method, expected) in GOLDEN {
        let ran = lab.measure(&format!("canister_update {method}"), LIMIT);
        assert!(ran.result.is_ok(), "{method}: {:?}", ran.result.err());
        assert_eq!(ran.instructions, *expected, "{method}");
    }
}

#[test]
fn a_message_may_spend_its_limit_and_not_one_more() {
    let lab = Lab::new(include_str!("golden.wat"));
    for (method, cost) in GOLDEN {
        let export = format!("canister_update {method}");
        assert!(lab.measure(&export, *cost).result.is_ok(), "{method}");
        let ran = lab.measure(&export, cost - 1);
        assert_eq!(ran.result.err(), Some(Fault::InstructionLimit(cost - 1)), "{method}");
        assert_eq!(ran.instructions, cost - 1, "{method}");
    }
    let endless = lab.run(Mode::Update, "canister_update endless", Default::default());
    assert_eq!(endless.result.err(), Some(Fault::InstructionLimit(LIMIT)));
}

#[test]
fn cycles_are_five_million_and_one_for_each_instruction() {
    let mut lab = Lab::new(include_str!("golden.wat"));
    for (method, instructions) in GOLDEN {
        let balance = |lab: &Lab| lab.ic.canister(lab.canister).unwrap().cycles;
        let before = balance(&lab);
        lab.call(lab.canister, method, &[]).unwrap_err(); // None of them answers.
        let ingress = 1_200_000 + 2_000 * crate::lab::ENVELOPE_BYTES as u128;
        // What it writes the second time is not new, so only what repeats can be compared.
        if !matches!(*method, "page" | "fifty_pages" | "fill" | "copy") {
            let execution = 5_000_000 + u128::from(*instructions);
            assert_eq!(before - balance(&lab), ingress + execution, "{method}");
        }
    }
}
