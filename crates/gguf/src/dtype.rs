//! Data types of tensors, by the numbers and names that GGUF has for them.

use candle_core::quantized::GgmlDType;

/// Data types that weights may have here: number, name, type.
const DTYPES: [(u32, &str, GgmlDType); 13] = [
    (0, "F32", GgmlDType::F32),
    (1, "F16", GgmlDType::F16),
    (2, "Q4_0", GgmlDType::Q4_0),
    (3, "Q4_1", GgmlDType::Q4_1),
    (6, "Q5_0", GgmlDType::Q5_0),
    (7, "Q5_1", GgmlDType::Q5_1),
    (8, "Q8_0", GgmlDType::Q8_0),
    (10, "Q2_K", GgmlDType::Q2K),
    (11, "Q3_K", GgmlDType::Q3K),
    (12, "Q4_K", GgmlDType::Q4K),
    (13, "Q5_K", GgmlDType::Q5K),
    (14, "Q6_K", GgmlDType::Q6K),
    (30, "BF16", GgmlDType::BF16),
];

/// The names of all of them, for messages.
pub(crate) fn names() -> String {
    DTYPES.map(|(_, name, _)| name).join(", ")
}

/// The data type with the number `number`.
pub(crate) fn of_number(number: u32) -> Option<GgmlDType> {
    DTYPES.iter().find(|(own, _, _)| *own == number).map(|(_, _, dtype)| *dtype)
}

/// The number of `dtype`, if weights may have it.
pub(crate) fn number(dtype: GgmlDType) -> Option<u32> {
    DTYPES.iter().find(|(_, _, own)| *own == dtype).map(|(number, _, _)| *number)
}

/// The name of `dtype`.
pub fn name(dtype: GgmlDType) -> &'static str {
    DTYPES.iter().find(|(_, _, own)| *own == dtype).map_or("another type", |(_, name, _)| name)
}

/// Bytes of a tensor of `n` values in rows of `columns`; nothing where a row is not a whole number of blocks.
pub(crate) fn n_bytes(dtype: GgmlDType, n: u64, columns: u64) -> Option<u64> {
    let block = dtype.block_size() as u64;
    columns.is_multiple_of(block).then(|| (n / block).checked_mul(dtype.type_size() as u64)).flatten()
}
