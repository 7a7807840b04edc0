package series

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/policies/limits"
)

// CheckCount returns an error if a query selects n series and the tenant's
// limit max_query_series, most, is smaller; 0 means no limit.
func CheckCount(n, most int) error {
	if most > 0 && n > most {
		return limits.MaxQuerySeries.ExceededAt(int64(most), limits.More)
	}
	return nil
}

// Memory is the memory budget of a read. Take returns an error if n bytes are
// not available.
type Memory interface {
	Take(n int64) error
}

// Joiner joins the chunks of each series from several sources, within the
// series limit and the memory budget of a read. It is not safe for concurrent
// use.
type Joiner struct {
	most     int // maximum number of series; 0 = no limit
	memory   Memory
	out      []WithChunks
	byHash   map[uint64][]int32
	admitted map[uint64]struct{} // hashes
}

// NewJoiner returns a Joiner of at most most series; 0 means no limit.
func NewJoiner(most int, memory Memory) *Joiner {
	return &Joiner{most: most, memory: memory, byHash: map[uint64][]int32{}}
}

// Add joins chunks that are already in memory to a series. hash is the hash of
// its labels.
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

// Admit counts a series toward the limit, and its memory without the data of its
// chunks toward the budget, before its chunks are fetched and passed to Join.
// Series with equal hashes of their labels are counted once toward the limit.
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

// Join joins chunks to an admitted series.
func (j *Joiner) Join(ls labels.Labels, chunks []Chunk) {
	hash := ls.Hash()
	if i := j.find(ls, hash); i >= 0 {
		j.out[i].Chunks = append(j.out[i].Chunks, chunks...)
		return
	}
	j.append(ls, hash, chunks)
}

// find returns the position of a series in out, or -1.
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

// Series returns the joined series, sorted by labels. The Joiner must not be
// used afterwards.
func (j *Joiner) Series() []WithChunks {
	Sort(j.out)
	return j.out
}

// Merge merges two lists that are sorted by labels and may have series in
// common. It returns an error if the result has more than `most` series; 0 means
// no limit. The lists must not be used afterwards.
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
