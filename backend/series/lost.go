package series

import "errors"

// ErrLost is returned by reads of a time of which acknowledged samples of the
// tenant were lost, until an operator accepts that. Its text is for the tenant.
var ErrLost = errors.New("samples of this time were lost with damaged records of the write-ahead log; queries of other times work, " +
	"and of this one once an operator accepts the loss (POST /admin/v1/compact/accept-loss)")
