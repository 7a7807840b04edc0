package series

import "errors"

// ErrLost is returned by reads of a time range in which acknowledged samples of
// the tenant were lost, until an operator accepts the loss. Its text is shown
// to the tenant.
var ErrLost = errors.New("samples in this time range were lost with damaged records of the write-ahead log; " +
	"queries outside the range work; to query it without the lost samples, an operator runs: pallium loss accept DAY")
