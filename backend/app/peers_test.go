package app

import (
	"errors"
	"fmt"
	"testing"

	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
)

// fails is an ingester that does not answer.
const fails = -1

// answers asks ingesters of domains, of which each answers with its number.
func answers[T any](domains [][]int, value func(int) T) map[string]*domainAnswer[T] {
	var instances []ring.Instance
	numbers := map[string]int{}
	for i, d := range domains {
		for k, n := range d {
			id := fmt.Sprintf("ingester-%d-%d", i, k)
			numbers[id] = n
			instances = append(instances, ring.Instance{ID: id, Zone: fmt.Sprintf("zone-%d", i)})
		}
	}
	return gather(instances, func(in *ring.Instance) (T, error) {
		n := numbers[in.ID]
		if n == fails {
			return value(0), errors.New("no answer")
		}
		return value(n), nil
	})
}

// TestAnswersOfIngesters: a count or list is as large as it must be, or an error.
func TestAnswersOfIngesters(t *testing.T) {
	tests := []struct {
		name        string
		replication int
		domains     [][]int // series of each ingester of each domain
		count       int     // -1: an error
		metadata    bool    // is an answer
	}{
		{"three", 3, [][]int{{10}, {10}, {10}}, 10, true},
		{"three, one behind", 3, [][]int{{10}, {9}, {10}}, 10, true},
		{"three, one silent", 3, [][]int{{10}, {fails}, {10}}, 10, true},
		{"three, two silent", 3, [][]int{{10}, {fails}, {fails}}, -1, false},
		{"all silent", 3, [][]int{{fails}, {fails}, {fails}}, -1, false},
		{"none", 3, nil, -1, false},
		{"one zone is not in the ring", 3, [][]int{{10}, {10}}, 10, true},
		{"one zone is not in the ring, one silent", 3, [][]int{{10}, {fails}}, -1, false},
		{"zones of two", 3, [][]int{{4, 6}, {5, 5}, {3, 7}}, 10, true},
		{"zones of two, one silent", 3, [][]int{{4, 6}, {5, fails}, {3, 7}}, 10, true},
		{"zones of two, silent in two", 3, [][]int{{4, 6}, {5, fails}, {fails, 7}}, -1, false},
		{"six without zones", 3, [][]int{{5}, {5}, {5}, {5}, {5}, {5}}, 10, true},
		{"six without zones, one silent", 3, [][]int{{5}, {5}, {5}, {5}, {5}, {fails}}, -1, true},
		{"six without zones, two silent", 3, [][]int{{5}, {5}, {5}, {5}, {fails}, {fails}}, -1, false},
		{"one replica", 1, [][]int{{10}}, 10, true},
		{"one replica, one of two silent", 1, [][]int{{10}, {fails}}, -1, false},
	}
	for _, tt := range tests {
		n, err := countSeries(answers(tt.domains, func(n int) int { return n }), tt.replication)
		if (err != nil) != (tt.count < 0) || err == nil && n != tt.count || err != nil && !errors.Is(err, querier.ErrSilent) {
			t.Errorf("%s: %d series, %v; want %d", tt.name, n, err, tt.count)
		}
		list, err := joinMetadata(answers(tt.domains, func(int) []series.MetricMetadata { return make([]series.MetricMetadata, 1) }), tt.replication)
		if (err == nil) != tt.metadata || err == nil && len(list) == 0 || err != nil && !errors.Is(err, querier.ErrSilent) {
			t.Errorf("%s: metadata %d, %v", tt.name, len(list), err)
		}
	}
}
