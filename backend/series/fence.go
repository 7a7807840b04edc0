package series

import "errors"

// Fence identifies the lease under which a ruler writes recorded samples: the share of the
// rule groups, and the number of its holder. docs/ruler.md has the protocol.
type Fence struct {
	Share  int
	Number uint64
}

// ErrFenced is wrapped by the error of a write whose sender no longer holds the share of its
// Fence. The sender must not repeat the write.
var ErrFenced = errors.New("the sender of the write does not hold this share of the rule groups any more")
