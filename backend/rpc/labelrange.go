package rpc

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// encodeRange encodes a range of series.
func encodeRange(r series.LabelRange) wire.LabelRange {
	return wire.LabelRange{From: encodeBound(r.From), To: encodeBound(r.To)}
}

func encodeBound(ls labels.Labels) []wire.RangeLabel {
	var out []wire.RangeLabel
	ls.Range(func(l labels.Label) { out = append(out, wire.RangeLabel{Name: l.Name, Value: l.Value}) })
	return out
}

// decodeRange decodes a range of series; nil means all series.
func decodeRange(m *wire.LabelRange) series.LabelRange {
	if m == nil {
		return series.LabelRange{}
	}
	return series.LabelRange{From: decodeBound(m.From), To: decodeBound(m.To)}
}

func decodeBound(list []wire.RangeLabel) labels.Labels {
	b := labels.NewScratchBuilder(len(list))
	for _, l := range list {
		b.Add(l.Name, l.Value)
	}
	b.Sort()
	return b.Labels()
}
