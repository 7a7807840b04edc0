package limits

import "fmt"

// Exceeded is the error of a request that goes beyond one of its tenant's
// limits. Its text is for the tenant: it names the limit, its value, the use,
// and what to do.
type Exceeded struct {
	Name  string // as in Limits
	Limit string // the value, with its unit
	Use   string // what the request wanted or used
	Hint  string // how to stay below; may be empty
}

func (e *Exceeded) Error() string {
	s := fmt.Sprintf("limit %s of %s exceeded: %s", e.Name, e.Limit, e.Use)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}
