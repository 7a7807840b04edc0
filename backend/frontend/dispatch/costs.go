package dispatch

import (
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/lru"
)

// costs estimates how many samples an evaluation will read: the number of steps times the samples per
// step that the last evaluation of the same expression read, plus costBase.
type costs struct{ perStep *lru.Cache[costKey, float64] }

type costKey struct {
	tenant      tenant.ID
	text        string
	aggregation int // Shard.Aggregation; -1 without a shard
}

// Sizes of costs. The base is the cost, in samples, of an evaluation that reads nothing.
const (
	costBase       = 10_000
	costPerStep    = 10_000  // for an expression that is not among the last knownCosts
	knownCosts     = 10_000  // expressions
	longestCostKey = 2 << 10 // bytes at the beginning of an expression that identify it
)

func newCosts() *costs { return &costs{lru.New[costKey, float64](knownCosts, nil)} }

func keyOf(r *evaluation.Request) costKey {
	text := r.Text
	if len(text) > longestCostKey {
		text = text[:longestCostKey]
	}
	key := costKey{r.Access.Tenant, text, -1}
	if r.Shard != nil {
		key.aggregation = r.Shard.Aggregation
	}
	return key
}

// stepsOf returns the number of steps of an evaluation.
func stepsOf(r *evaluation.Request) int64 {
	switch {
	case r.Instant():
		return 1
	case r.Part != nil:
		return (r.Part.End-r.Part.Start)/max(r.Times.Step.Milliseconds(), 1) + 1
	}
	return int64(r.Times.End.Sub(r.Times.Start)/r.Times.Step) + 1
}

// estimate returns the expected cost of an evaluation in samples.
func (c *costs) estimate(r *evaluation.Request) int64 {
	each, ok := c.perStep.Get(keyOf(r))
	if !ok {
		each = costPerStep
	}
	return max(costBase+int64(each*float64(stepsOf(r))/shardsOf(r)), 1)
}

// learn records how many samples an evaluation has read.
func (c *costs) learn(r *evaluation.Request, read int64) {
	c.perStep.Put(keyOf(r), float64(read)*shardsOf(r)/float64(max(stepsOf(r), 1)))
}

// shardsOf returns the number of shards of the leaf that the request evaluates; 1 without a shard.
func shardsOf(r *evaluation.Request) float64 {
	if r.Shard == nil {
		return 1
	}
	return float64(max(r.Shard.Of, 1))
}
