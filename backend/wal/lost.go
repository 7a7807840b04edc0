package wal

// maxLost is the maximum number of ranges of lost records.
const maxLost = 64

// lostRecords is a list of records that were appended to segments whose sync failed
// and that no later sync can save. Callers that wait for one of them must get an
// error, although later records are durable. Ranges are in ascending order.
type lostRecords []lostRange

// lostRange is a range of record numbers, both ends included.
type lostRange struct {
	from, to uint64
	cause    error
}

// add adds a range. Above maxLost it merges the two oldest ranges, including the
// records between them: those are reported as lost although they are durable, which
// at most causes their senders to retry.
func (l *lostRecords) add(r lostRange) {
	*l = append(*l, r)
	if all := *l; len(all) > maxLost {
		all[1].from = all[0].from
		*l = all[1:]
	}
}

// cause returns the error that may have lost a record, or nil.
func (l lostRecords) cause(seq uint64) error {
	for i := len(l) - 1; i >= 0 && seq <= l[i].to; i-- {
		if seq >= l[i].from {
			return l[i].cause
		}
	}
	return nil
}
