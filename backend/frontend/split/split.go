// Package split divides a PromQL query over a range into parts whose answers, merged, are exactly
// the answer of the whole query, and determines which part of an answer depends on which data. All
// of its functions are pure, except that [Resolve] changes its expression.
//
// The order of calls is: [Resolve] the parsed expression, [Analyze] it, divide
// the range into [Parts] with the [Shape.Interval], evaluate every part with an
// engine whose parser is [Parser], and [Merge] the results; annotations are
// joined by annotations.Annotations.Merge.
//
// # What is exact
//
// Values, labels and times of an expression that Analyze calls splittable are
// those of the whole query, to the bit, if
//
//   - the engine does not delay the removal of names (EnableDelayedNameRemoval),
//   - the storage returns the series of a selector in the same relative order
//     whatever range is read, and a sample with the same value, start timestamp
//     and counter reset hint. The hint counts: a binary operator drops the sum of
//     histograms of which one was reset and the other one was not.
//
// Where Prometheus itself leaves the answer open, since it iterates a Go map
// (the order of series after most operators of a range query, on which sums of
// floats and ties of topk depend), the split answer is one of those that
// Prometheus may give.
//
// If the whole query fails, a part fails; if there are several errors, a different one may be
// reported.
//
// Annotations are the same set of messages, with these exceptions. If one message comes from
// several places of the expression, Merge keeps the position of the last part, but the engine keeps
// the place that it evaluates last. The number of samples for which histogram_quantile had to force
// monotonicity is doubled by the engine at every step, so a split query has a smaller one. If a
// binary operator meets several kinds of incompatible samples at one step, the engine reports the
// kind of the last pair, and the order of pairs after an aggregation can depend on the range.
// annotations.Annotations.Merge changes the annotations it is given: a caller must not use them
// afterwards. The annotations of a part belong to all of its steps: an answer that was cut with
// [Slice] or [Pick] may have fewer.
//
// Two NaNs with different bits count as equal here: no PromQL function and no answer distinguishes
// them. histogram_quantile adds up the buckets of one bound with different spellings (le="1",
// le="1.0") in an order that may depend on the range, which can change the last bit with three
// spellings or more.
package split
