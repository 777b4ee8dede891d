//! Attention within one head of one sequence, forward and backward.
//!
//! Queries go in blocks, and each block's keys in spans. Weights of one span exist for as long as it is worked on: sums of
//! the spans before are scaled as the largest score grows, and the backward pass makes weights again from the logarithm of
//! each row's sum (Dao et al. 2022, §3.1). Keys that no query of a block may see are never touched: the causal kind does
//! half the work of the full square, the banded kind its band's, and a branch's queries go by the other branches.
//!
//! Where threads outnumber heads, each head is cut into parts ([`HeadPart`]): some queries, or some keys with all queries that
//! see them. A part's numbers are computed as those of a whole head are, so that they have the same bits.

use crate::attention::Mask;
use crate::cpu::element::Element;
use crate::cpu::kernel::Kernel;
use crate::cpu::{fused, vectorized};
use crate::dropout::Dropout;
use crate::exp::exp;
use crate::matrix::Matrix;
use crate::panels::{pack_left_all, pack_left_rows, pack_right_all};
use crate::product::tile;
use crate::scratch::ScratchBuffer;
use crate::sequences::SequenceSegment;
use crate::slices::{dot, map_and_sum, max};
use std::cell::RefCell;
use std::ops::Range;

/// Queries worked on together: enough for efficient products, few enough that little is done for hidden keys.
pub(crate) const BLOCK: usize = 64;
/// Keys, whose weights for a block of queries stay near the processor: a multiple of every kernel's columns.
pub(crate) const SPAN: usize = 256;

/// One head of one sequence.
pub(crate) struct SequenceHead<'a, E> {
    pub(crate) segments: Vec<SequenceSegment>,
    pub(crate) qkv: [Matrix<'a, E>; 3],
    /// Tokens of the sequence.
    pub(crate) len: usize,
    /// K.
    pub(crate) size: usize,
    /// 1/√K.
    pub(crate) scale: f32,
    pub(crate) mask: Mask,
    pub(crate) drop: Option<Dropout>,
    /// Number of its first attention weight among those of the batch, `[B, H, T, T]`.
    pub(crate) first_weight: u64,
    /// T.
    pub(crate) window: usize,
    /// Attention weights of a window: H·T².
    pub(crate) window_weights: usize,
}

/// Memory that a thread works in.
#[derive(Default)]
pub(crate) struct HeadWorkspace {
    pub(crate) queries: ScratchBuffer,
    keys: ScratchBuffer,
    values: ScratchBuffer,
    pub(crate) weights: ScratchBuffer,
    pub(crate) packed_weights: ScratchBuffer,
    pub(crate) out: ScratchBuffer,
    dmixed: ScratchBuffer,
    gradients: ScratchBuffer,
    keys_back: ScratchBuffer,
    queries_back: ScratchBuffer,
    dmixed_back: ScratchBuffer,
    dkeys: ScratchBuffer,
    dvalues: ScratchBuffer,
}

thread_local! {
    static WORKSPACE: RefCell<HeadWorkspace> = RefCell::default();
}

/// Runs `f` with this thread's workspace.
pub(crate) fn with_workspace(f: impl FnOnce(&mut HeadWorkspace)) {
    WORKSPACE.with_borrow_mut(f);
}

/// Queries that are worked on together.
#[derive(Clone)]
struct QueryBlock {
    segment: SequenceSegment,
    queries: Range<usize>,
}

/// Keys that are worked on together, whose weights stay near the processor.
struct KeySpan {
    /// Whether they are of the stem that the queries' segment goes on from.
    of_stem: bool,
    keys: Range<usize>,
    /// The place of the first among the packed keys.
    place: usize,
}

/// The part of a head's attention that one task computes.
pub(crate) struct HeadPart {
    /// In their order.
    blocks: Vec<QueryBlock>,
    /// All that the queries see, or some of them, in whole panels.
    keys: Range<usize>,
    gives: Gives,
}

/// Which gradients a [`HeadPart`] gives. Its queries' need all the keys that they see, its keys' all queries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gives {
    All,
    OfQueries,
    OfKeys,
}

/// Right panels in `packed`, of `size` numbers each.
#[derive(Clone, Copy)]
struct PackedPanels<'a, R> {
    packed: &'a [R],
    size: usize,
}

impl<'a, R> PackedPanels<'a, R> {
    /// From depth `from` on, that with the column `column`.
    fn panel<K: Kernel>(self, column: usize, from: usize) -> &'a [R] {
        &self.packed[column / K::COLUMNS * self.size + from * K::COLUMNS..]
    }
}

impl<E: Element> SequenceHead<'_, E> {
    /// Blocks of queries, each of one segment.
    fn blocks<K: Kernel>(&self) -> impl Iterator<Item = QueryBlock> {
        let high = (BLOCK / K::ROWS).max(1) * K::ROWS;
        self.segments.iter().flat_map(move |&segment| {
            let firsts = (segment.start..segment.end).step_by(high);
            firsts.map(move |first| QueryBlock { segment, queries: first..(first + high).min(segment.end) })
        })
    }

    /// The whole head.
    pub(crate) fn whole<K: Kernel>(&self) -> HeadPart {
        HeadPart { blocks: self.blocks::<K>().collect(), keys: 0..self.len, gives: Gives::All }
    }

    /// The head in at most `n` parts of about as much work, each with some of the queries.
    pub(crate) fn parts_by_queries<K: Kernel>(&self, n: usize) -> Vec<HeadPart> {
        let blocks: Vec<QueryBlock> = self.blocks::<K>().collect();
        let seen = |block: &QueryBlock| self.spans::<K>(block, &(0..usize::MAX)).collect::<Vec<KeySpan>>();
        let cost = |block| seen(block).iter().map(|span| span.keys.len()).sum();
        let part = |blocks: &[QueryBlock]| {
            let spans: Vec<KeySpan> = blocks.iter().flat_map(seen).collect();
            let start = spans.iter().map(|span| span.keys.start / SPAN * SPAN).min().unwrap_or(0);
            let end = spans.iter().map(|span| span.keys.end.min(self.len)).max().unwrap_or(0);
            HeadPart { blocks: blocks.to_vec(), keys: start..end, gives: Gives::OfQueries }
        };
        let costs: Vec<usize> = blocks.iter().map(cost).collect();
        cut(&costs, n).into_iter().map(|range| part(&blocks[range])).collect()
    }

    /// The head in at most `n` parts of about as much work, each with some of the keys.
    pub(crate) fn parts_by_keys<K: Kernel>(&self, n: usize) -> Vec<HeadPart> {
        let blocks: Vec<QueryBlock> = self.blocks::<K>().collect();
        let mut costs = vec![0; self.len.div_ceil(K::COLUMNS)];
        for block in &blocks {
            for span in self.spans::<K>(block, &(0..usize::MAX)) {
                let panels = span.keys.start / K::COLUMNS..span.keys.end / K::COLUMNS;
                costs[panels].iter_mut().for_each(|cost| *cost += block.queries.len());
            }
        }
        let part = |panels: Range<usize>| {
            let keys = panels.start * K::COLUMNS..(panels.end * K::COLUMNS).min(self.len);
            let sees = |block: &&QueryBlock| self.spans::<K>(block, &keys).next().is_some();
            HeadPart { blocks: blocks.iter().filter(sees).cloned().collect(), keys, gives: Gives::OfKeys }
        };
        cut(&costs, n).into_iter().map(part).collect()
    }

    /// Spans of keys, in whole panels, that some query of `block` may see: those of the stem, then those of its segment; of
    /// these, those of `packed`.
    fn spans<K: Kernel>(&self, block: &QueryBlock, packed: &Range<usize>) -> impl Iterator<Item = KeySpan> + use<K, E> {
        let QueryBlock { segment, queries } = block;
        let last = queries.end - 1;
        let panels = |keys: Range<usize>| keys.start / K::COLUMNS * K::COLUMNS..keys.end.next_multiple_of(K::COLUMNS);
        // The first query sees furthest back; of a stem, as much as any.
        let stem = Some(self.seen_of(segment, true, queries.start)).filter(|seen| !seen.is_empty()).map(panels);
        let own = panels(self.seen_of(segment, false, queries.start).start..self.seen_of(segment, false, last).end);
        let (start, end) = (packed.start, packed.end.saturating_add(K::COLUMNS - 1) / K::COLUMNS * K::COLUMNS);
        let spans = move |(of_stem, keys): (bool, Range<usize>)| {
            let last = keys.end;
            keys.step_by(SPAN).filter_map(move |first| {
                let keys = first.max(start)..(first + SPAN).min(last).min(end);
                let place = keys.start - start;
                (!keys.is_empty()).then_some(KeySpan { of_stem, keys, place })
            })
        };
        stem.map(|keys| (true, keys)).into_iter().chain([(false, own)]).flat_map(spans)
    }

    /// The keys that `query` of `segment` may see: of its stem, or of the segment itself.
    fn seen_of(&self, segment: &SequenceSegment, of_stem: bool, query: usize) -> Range<usize> {
        let seen = self.mask.visible(segment.position(query)).start;
        if of_stem {
            return seen.min(segment.stem)..segment.stem;
        }
        let end = if self.mask == Mask::Full { segment.end } else { query + 1 };
        segment.start + seen.saturating_sub(segment.stem)..end
    }

    /// Products of a block of `queries`, `[rows, K]` in left panels of `left_size`, with `keys`: `[rows, keys]`, but for
    /// what is hidden, which may be anything.
    fn scores<K: Kernel>(
        &self,
        (left, left_size): (&[K::Left], usize),
        block: &QueryBlock,
        right: PackedPanels<K::Right>,
        span: &KeySpan,
        sums: &mut [f32],
    ) {
        let (deep, queries) = (self.size.next_multiple_of(K::DEPTH), &block.queries);
        let seen = |rows: Range<usize>, column: usize| {
            let key = span.keys.start + (column - span.place);
            self.seen_of(&block.segment, span.of_stem, queries.start + rows.end - 1).end > key
        };
        multiply_panels::<K, K::Right>(
            (left, left_size, queries.len()),
            |column| right.panel::<K>(column, 0),
            deep,
            span.place..span.place + span.keys.len(),
            (sums, false),
            seen,
        );
    }

    /// `sums = left·right`, or `sums += left·right`: `left` are panels of as many rows as there are queries, with a column for
    /// each key of `span`; `right` are panels of all packed keys, with `wide` columns.
    fn mix<K: Kernel>(
        &self,
        left: (&[K::Left], usize, usize),
        right: PackedPanels<K::Right>,
        span: &KeySpan,
        wide: usize,
        sums: (&mut [f32], bool),
    ) {
        let deep = span.keys.len().min(self.len.next_multiple_of(K::DEPTH) - span.keys.start);
        let right = |column| right.panel::<K>(column, span.place);
        multiply_panels::<K, K::Right>(left, right, deep, 0..wide, sums, |_, _| true);
    }

    /// `sums += valuesᵀ·right`, where `values` are `[queries, keys of span]`; rows of `sums`, one for each packed key, are
    /// `stride` apart.
    fn add_transposed<K: Kernel>(
        &self,
        (values, span): (Matrix<f32>, &KeySpan),
        scratch: &mut ScratchBuffer,
        (right, deep): (PackedPanels<K::Right>, usize),
        (sums, stride): (&mut [f32], usize),
    ) {
        let size = pack_left_all::<K, f32>(values.t(), scratch);
        let left: &[K::Left] = scratch.last();
        for column in (0..self.size).step_by(K::COLUMNS) {
            let right = right.panel::<K>(column, 0);
            for (n, row) in (0..span.keys.len()).step_by(K::ROWS).enumerate() {
                let m = K::ROWS.min(span.keys.len() - row);
                let sums = &mut sums[(span.place + row) * stride + column..];
                tile::<K, K::Right>(m, &left[n * size..], right, deep, (sums, stride), true);
            }
        }
    }

    /// Applies dropout to `row`, the weights of `query` for `keys` or their gradients.
    fn drop(&self, query: usize, keys: &Range<usize>, row: &mut [f32]) {
        if let Some(drop) = self.drop {
            let n = keys.len().min(self.len - keys.start);
            let first = self.first_weight + (query * self.window + keys.start) as u64;
            drop.apply_from(&mut row[..n], first, self.window_weights);
        }
    }

    /// What `query` of `segment` sees of a span's keys, counted from the first of these.
    fn seen(&self, segment: &SequenceSegment, query: usize, KeySpan { of_stem, keys, .. }: &KeySpan) -> Range<usize> {
        let seen = self.seen_of(segment, *of_stem, query);
        let within = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
        within(seen.start)..within(seen.end)
    }

    /// For each query of `part`, calls `put` with its mixed values, `[K]`, and the logarithm of the sum of exponentials of its
    /// scores.
    pub(crate) fn forward<K: Kernel>(
        &self,
        workspace: &mut HeadWorkspace,
        part: &HeadPart,
        mut put: impl FnMut(usize, &[f32], f32),
    ) {
        let [queries, keys, values] = self.qkv;
        let (keys, values) = (keys.rows(part.keys.clone()), values.rows(part.keys.clone()));
        let size = pack_right_all::<K, E>(keys.t(), &mut workspace.keys);
        let packed_keys = PackedPanels { packed: workspace.keys.last(), size };
        let size = pack_right_all::<K, E>(values, &mut workspace.values);
        let packed_values = PackedPanels { packed: workspace.values.last(), size };
        let wide = self.size.next_multiple_of(K::COLUMNS);
        for block in &part.blocks {
            let m = block.queries.len();
            let rows = m.next_multiple_of(K::ROWS);
            let left_size =
                pack_left_rows::<K, E>(queries, block.queries.clone(), 0..self.size, &mut workspace.queries);
            let out = workspace.out.numbers::<f32>(rows * wide);
            let mut most = [f32::NEG_INFINITY; BLOCK];
            let mut totals = [0.0; BLOCK];
            for (number, span) in self.spans::<K>(block, &part.keys).enumerate() {
                let n = span.keys.len();
                let weights = workspace.weights.numbers::<f32>(rows * n);
                self.scores::<K>((workspace.queries.last(), left_size), block, packed_keys, &span, weights);
                let (first, weights) = (number == 0, &mut weights[..m * n]);
                for (i, (query, row)) in block.queries.clone().zip(weights.chunks_exact_mut(n)).enumerate() {
                    let seen = self.seen(&block.segment, query, &span);
                    let shrink = weigh(row, seen, self.scale, &mut most[i], &mut totals[i]);
                    if !first && shrink != 1.0 {
                        out[i * wide..(i + 1) * wide].iter_mut().for_each(|x| *x *= shrink);
                    }
                    self.drop(query, &span.keys, row);
                }
                let size = pack_left_all::<K, f32>(Matrix::new(weights, m, n, n), &mut workspace.packed_weights);
                let left = (workspace.packed_weights.last(), size, m);
                self.mix::<K>(left, packed_values, &span, wide, (&mut *out, !first));
            }
            for (i, (query, row)) in block.queries.clone().zip(out.chunks_exact_mut(wide)).enumerate() {
                let share = 1.0 / totals[i];
                row.iter_mut().for_each(|x| *x *= share);
                put(query, &row[..self.size], most[i] + totals[i].ln());
            }
        }
    }

    /// From what [`SequenceHead::forward`] gave: the gradients of queries (0), keys (1) and values (2) that `part` gives, row by
    /// row with `put`.
    pub(crate) fn backward<K: Kernel>(
        &self,
        workspace: &mut HeadWorkspace,
        part: &HeadPart,
        log_sums: &[f32],
        (mixed, dmixed): (Matrix<E>, Matrix<E>),
        mut put: impl FnMut(usize, usize, &[f32]),
    ) {
        let [queries, keys, values] = self.qkv;
        let (keys, values) = (keys.rows(part.keys.clone()), values.rows(part.keys.clone()));
        let (of_queries, of_keys) = (part.gives != Gives::OfKeys, part.gives != Gives::OfQueries);
        let wide = self.size.next_multiple_of(K::COLUMNS);
        let size = pack_right_all::<K, E>(keys.t(), &mut workspace.keys);
        let packed_keys = PackedPanels { packed: workspace.keys.last(), size };
        let size = pack_right_all::<K, E>(values.t(), &mut workspace.values);
        let packed_values = PackedPanels { packed: workspace.values.last(), size };
        let size = if of_queries { pack_right_all::<K, E>(keys, &mut workspace.keys_back) } else { 0 };
        let keys_back = PackedPanels { packed: workspace.keys_back.last(), size };
        // As many rows as the last panels of keys reach over.
        let tall = if of_keys { (part.keys.len().next_multiple_of(K::COLUMNS) + K::ROWS) * wide } else { 0 };
        let (dkeys, dvalues) = (workspace.dkeys.numbers::<f32>(tall), workspace.dvalues.numbers::<f32>(tall));
        dkeys.fill(0.0);
        dvalues.fill(0.0);
        for block in &part.blocks {
            let (m, range) = (block.queries.len(), &block.queries);
            let (rows, deep) = (m.next_multiple_of(K::ROWS), m.next_multiple_of(K::DEPTH));
            let left_size = pack_left_rows::<K, E>(queries, range.clone(), 0..self.size, &mut workspace.queries);
            pack_left_rows::<K, E>(dmixed, range.clone(), 0..self.size, &mut workspace.dmixed);
            let size = pack_right_all::<K, E>(queries.rows(range.clone()), &mut workspace.queries_back);
            let queries_back = (PackedPanels { packed: workspace.queries_back.last(), size }, deep);
            let size = pack_right_all::<K, E>(dmixed.rows(range.clone()), &mut workspace.dmixed_back);
            let dmixed_back = (PackedPanels { packed: workspace.dmixed_back.last(), size }, deep);
            let mut dots = [0.0; BLOCK];
            for (dot, query) in dots.iter_mut().zip(range.clone()) {
                *dot = product_sum::<E>(mixed.row_part(query, 0..self.size), dmixed.row_part(query, 0..self.size));
            }
            let out = workspace.out.numbers::<f32>(rows * wide);
            for (number, span) in self.spans::<K>(block, &part.keys).enumerate() {
                let n = span.keys.len();
                let weights = workspace.weights.numbers::<f32>(rows * n);
                let gradients = workspace.gradients.numbers::<f32>(rows * n);
                self.scores::<K>((workspace.queries.last(), left_size), block, packed_keys, &span, weights);
                self.scores::<K>((workspace.dmixed.last(), left_size), block, packed_values, &span, gradients);
                let (weights, gradients) = (&mut weights[..m * n], &mut gradients[..m * n]);
                let both = weights.chunks_exact_mut(n).zip(gradients.chunks_exact_mut(n));
                for ((query, (weights, gradients)), dot) in range.clone().zip(both).zip(dots) {
                    weigh_again(weights, self.seen(&block.segment, query, &span), self.scale, log_sums[query]);
                    self.drop(query, &span.keys, gradients);
                    score_gradient(weights, gradients, dot, self.scale);
                    self.drop(query, &span.keys, weights);
                }
                let (weights, gradients) = (Matrix::new(weights, m, n, n), Matrix::new(gradients, m, n, n));
                let scratch = &mut workspace.packed_weights;
                if of_keys {
                    self.add_transposed::<K>((weights, &span), scratch, dmixed_back, (&mut *dvalues, wide));
                    self.add_transposed::<K>((gradients, &span), scratch, queries_back, (&mut *dkeys, wide));
                }
                if of_queries {
                    let size = pack_left_all::<K, f32>(gradients, scratch);
                    self.mix::<K>((scratch.last(), size, m), keys_back, &span, wide, (&mut *out, number > 0));
                }
            }
            if of_queries {
                for (query, row) in range.clone().zip(out.chunks_exact(wide)) {
                    put(0, query, &row[..self.size]);
                }
            }
        }
        let gradients = dkeys.chunks_exact(wide).zip(dvalues.chunks_exact(wide));
        for (t, (dkey, dvalue)) in part.keys.clone().zip(gradients) {
            put(1, t, &dkey[..self.size]);
            put(2, t, &dvalue[..self.size]);
        }
    }
}

/// Cuts `costs` into at most `n` ranges of about the same sum.
fn cut(costs: &[usize], n: usize) -> Vec<Range<usize>> {
    let total: usize = costs.iter().sum();
    let (mut parts, mut start, mut sum) = (Vec::new(), 0, 0);
    for (i, cost) in costs.iter().enumerate() {
        sum += cost;
        if sum * n >= total * (parts.len() + 1) || i + 1 == costs.len() {
            parts.push(start..i + 1);
            start = i + 1;
        }
    }
    parts
}

/// `sums = left·right`, or `sums += left·right` with `add`, over whole panels of the depth `deep`: `rows` rows of left panels
/// of `left_size`, and `columns`, of which `right` gives the panel that begins with one. Rows of sums are `columns` apart.
/// Tiles whose rows and first column are not `needed` may be left as they are.
pub(crate) fn multiply_panels<'p, K: Kernel, S: Element>(
    (left, left_size, rows): (&[K::Left], usize, usize),
    right: impl Fn(usize) -> &'p [S],
    deep: usize,
    columns: Range<usize>,
    (sums, add): (&mut [f32], bool),
    needed: impl Fn(Range<usize>, usize) -> bool,
) {
    let stride = columns.len();
    for (n, column) in columns.clone().step_by(K::COLUMNS).enumerate() {
        let right = right(column);
        for (left, row) in left.chunks(left_size.max(1)).zip((0..rows).step_by(K::ROWS)) {
            let m = K::ROWS.min(rows - row);
            if needed(row..row + m, column) {
                let sums = &mut sums[row * stride + n * K::COLUMNS..];
                tile::<K, S>(m, left, right, deep, (sums, stride), add);
            }
        }
    }
}

vectorized! {
    /// Scores of a span → exponentials of what is `seen`, 0 elsewhere, divided by that of the largest scaled score so far,
    /// `most`. `total`: the sum of all so far. Returns the share of what spans before gave that is left.
    pub(crate) fn weigh(row: &mut [f32], seen: Range<usize>, scale: f32, most: &mut f32, total: &mut f32) -> f32 {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        if seen.is_empty() {
            return 1.0;
        }
        let row = &mut row[seen];
        let largest = max(row) * scale;
        // A comparison, not `max`: NaN is passed on.
        let largest = if *most > largest { *most } else { largest };
        let shrink = exp::<FUSED>(*most - largest);
        let more = map_and_sum(row, |w| exp::<FUSED>(fused::<FUSED>(w, scale, -largest)));
        *total = *total * shrink + more;
        *most = largest;
        shrink
    }
}

vectorized! {
    /// The same from the logarithm of the sum, as weights that sum to 1.
    fn weigh_again(row: &mut [f32], seen: Range<usize>, scale: f32, log_sum: f32) {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        row[seen].iter_mut().for_each(|w| *w = exp::<FUSED>(fused::<FUSED>(*w, scale, -log_sum)));
    }
}

vectorized! {
    /// Gradients of weights → of scores before they are scaled. Where a weight is 0 so is the gradient, whatever stood
    /// there.
    fn score_gradient(weights: &[f32], gradients: &mut [f32], dot: f32, scale: f32) {
        for (g, w) in gradients.iter_mut().zip(weights) {
            let gradient = w * (*g - dot) * scale;
            *g = if *w == 0.0 { 0.0 } else { gradient };
        }
    }
}

vectorized! {
    fn product_sum[E: Element](a: &[E], b: &[E]) -> f32 {
        dot::<E>(a, b)
    }
}
