package series

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/policies/limits"
)

// CheckCount returns the error of a query that selects n series when the tenant's
// max_query_series of that moment is most; 0 is no limit.
func CheckCount(n, most int) error {
	if most > 0 && n > most {
		return limits.MaxQuerySeries.ExceededAt(int64(most), limits.More)
	}
	return nil
}

// Memory is what a read takes its memory from.
type Memory interface {
	Take(n int64) error
}

// Joiner brings the chunks of a series together, wherever they come from, within
// the limit and the memory of a read. It is not safe for concurrent use.
type Joiner struct {
	most     int // series; 0 is no limit
	memory   Memory
	out      []WithChunks
	byHash   map[uint64][]int32
	admitted map[uint64]struct{} // hashes
}

// NewJoiner returns a joiner of at most so many series; 0 is no limit.
func NewJoiner(most int, memory Memory) *Joiner {
	return &Joiner{most: most, memory: memory, byHash: map[uint64][]int32{}}
}

// Add joins chunks, which are there already, to the series, whose labels' hash is
// given.
func (j *Joiner) Add(ls labels.Labels, hash uint64, chunks []Chunk) error {
	if err := j.memory.Take(SelectedBytes(ls, len(chunks))); err != nil {
		return err
	}
	if i := j.find(ls, hash); i >= 0 {
		j.out[i].Chunks = append(j.out[i].Chunks, chunks...)
		return nil
	}
	if err := CheckCount(len(j.out)+1, j.most); err != nil {
		return err
	}
	j.append(ls, hash, chunks)
	return nil
}

// Admit counts a series toward the limit, and what it and so many chunks take
// toward the memory, before its chunks are fetched and given to Join. Whether one is
// counted already is told by the hash of its labels alone.
func (j *Joiner) Admit(ls labels.Labels, chunks int) error {
	if err := j.memory.Take(SelectedBytes(ls, chunks)); err != nil {
		return err
	}
	if j.most <= 0 {
		return nil
	}
	if j.admitted == nil {
		j.admitted = map[uint64]struct{}{}
	}
	j.admitted[ls.Hash()] = struct{}{}
	return CheckCount(len(j.admitted), j.most)
}

// Join joins chunks to a series that was admitted.
func (j *Joiner) Join(ls labels.Labels, chunks []Chunk) {
	hash := ls.Hash()
	if i := j.find(ls, hash); i >= 0 {
		j.out[i].Chunks = append(j.out[i].Chunks, chunks...)
		return
	}
	j.append(ls, hash, chunks)
}

// find returns the place of a series in out; -1 if it has none.
func (j *Joiner) find(ls labels.Labels, hash uint64) int {
	for _, i := range j.byHash[hash] {
		if labels.Equal(j.out[i].Labels, ls) {
			return int(i)
		}
	}
	return -1
}

func (j *Joiner) append(ls labels.Labels, hash uint64, chunks []Chunk) {
	j.byHash[hash] = append(j.byHash[hash], int32(len(j.out)))
	j.out = append(j.out, WithChunks{Labels: ls, Chunks: chunks})
}

// Series returns what was joined, sorted by labels. The joiner is not used any more.
func (j *Joiner) Series() []WithChunks {
	Sort(j.out)
	return j.out
}

// Merge joins two lists that are sorted by labels, and may have series in common,
// into one of at most so many series; 0 is no limit. The lists are not used any
// more.
func Merge(a, b []WithChunks, most int) ([]WithChunks, error) {
	if len(a) == 0 {
		a, b = b, a
	}
	if len(b) > 0 {
		out := make([]WithChunks, 0, max(len(a), len(b)))
		for len(a) > 0 && len(b) > 0 {
			switch c := labels.Compare(a[0].Labels, b[0].Labels); {
			case c < 0:
				out, a = append(out, a[0]), a[1:]
			case c > 0:
				out, b = append(out, b[0]), b[1:]
			default:
				s := a[0]
				s.Chunks = append(s.Chunks, b[0].Chunks...)
				out, a, b = append(out, s), a[1:], b[1:]
			}
		}
		a = append(append(out, a...), b...)
	}
	if err := CheckCount(len(a), most); err != nil {
		return nil, err
	}
	return a, nil
}
