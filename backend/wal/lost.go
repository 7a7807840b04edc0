package wal

// maxLost bounds how many ranges of lost records are remembered.
const maxLost = 64

// lostRecords remembers the records that were appended to segments whose sync
// failed and that no later sync can save: whoever waits for one of them must
// learn that it may not be on disk, although later records are. Ranges ascend.
type lostRecords []lostRange

// lostRange is the records from one number to another, both included.
type lostRange struct {
	from, to uint64
	cause    error
}

// add remembers a range. Above maxLost the two oldest become one that covers the
// records between them, too: those are reported as lost although they are on
// disk, which costs their sender a retry at most.
func (l *lostRecords) add(r lostRange) {
	*l = append(*l, r)
	if all := *l; len(all) > maxLost {
		all[1].from = all[0].from
		*l = all[1:]
	}
}

// cause returns why a record may be lost, or nil.
func (l lostRecords) cause(seq uint64) error {
	for i := len(l) - 1; i >= 0 && seq <= l[i].to; i-- {
		if seq >= l[i].from {
			return l[i].cause
		}
	}
	return nil
}
