package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/prometheus/prometheus/model/labels"
)

// AppendLabels appends encoded labels to dst: alternating names and values, each preceded
// by its length as an unsigned varint.
func AppendLabels(dst []byte, ls labels.Labels) []byte {
	ls.Range(func(l labels.Label) {
		dst = binary.AppendUvarint(dst, uint64(len(l.Name)))
		dst = append(dst, l.Name...)
		dst = binary.AppendUvarint(dst, uint64(len(l.Value)))
		dst = append(dst, l.Value...)
	})
	return dst
}

var errLabels = errors.New("invalid labels")

// DecodeLabels decodes labels encoded by AppendLabels. It resets and uses b.
func DecodeLabels(data []byte, b *labels.ScratchBuilder) (labels.Labels, error) {
	b.Reset()
	last := ""
	for len(data) > 0 {
		name, rest, err := text(data)
		if err != nil {
			return labels.EmptyLabels(), err
		}
		value, rest, err := text(rest)
		if err != nil {
			return labels.EmptyLabels(), err
		}
		if name <= last || value == "" {
			return labels.EmptyLabels(), fmt.Errorf("%w: %q after %q", errLabels, name, last)
		}
		b.Add(name, value)
		last, data = name, rest
	}
	return b.Labels(), nil
}

const maxLabelBytes = 1<<24 - 1 // see remotewrite

// text returns the first string of data and the rest. The string shares memory with data;
// labels.ScratchBuilder copies it.
func text(data []byte) (string, []byte, error) {
	n, k := binary.Uvarint(data)
	if k <= 0 || n > uint64(len(data)-k) || n > maxLabelBytes {
		return "", nil, errLabels
	}
	if n == 0 {
		return "", data[k:], nil
	}
	return unsafe.String(&data[k], int(n)), data[uint64(k)+n:], nil
}

// Matchers converts matchers of a message to those of Prometheus.
func Matchers(list []Matcher) ([]*labels.Matcher, error) {
	out := make([]*labels.Matcher, 0, len(list))
	for _, m := range list {
		if m.Type < 0 || m.Type > int64(labels.MatchNotRegexp) {
			return nil, fmt.Errorf("unknown matcher type %d", m.Type)
		}
		lm, err := labels.NewMatcher(labels.MatchType(m.Type), m.Name, m.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, lm)
	}
	return out, nil
}

// MatchersOf is the reverse of Matchers.
func MatchersOf(list []*labels.Matcher) []Matcher {
	out := make([]Matcher, 0, len(list))
	for _, m := range list {
		out = append(out, Matcher{Type: int64(m.Type), Name: m.Name, Value: m.Value})
	}
	return out
}
