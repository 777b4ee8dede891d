//! Numbers as they are stored; all arithmetic is f32's.

pub(crate) use half::bf16;

/// f32, or its upper half.
pub(crate) trait Element: bytemuck::Pod + Default + Send + Sync + std::fmt::Debug {
    /// Whether it is f32 itself.
    const EXACT: bool;
    /// The number.
    fn get(self) -> f32;
    /// The nearest that can be stored, ties to even; NaN stays NaN.
    fn of(x: f32) -> Self;
}

impl Element for f32 {
    const EXACT: bool = true;

    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

impl Element for bf16 {
    const EXACT: bool = false;

    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// In whole numbers and without a branch, so that it becomes vector code.
    #[inline(always)]
    fn of(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        Self::from_bits(if x.is_nan() { nan } else { rounded } as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bf16_is_rounded_as_the_library_rounds(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Element>::of(x), bf16::from_f32(x));
            prop_assert!(ours.to_bits() == theirs.to_bits() || x.is_nan() && ours.is_nan(), "{x}: {ours} {theirs}");
            prop_assert!(x.is_nan() || ours.get() == theirs.to_f32());
        }
    }
}
