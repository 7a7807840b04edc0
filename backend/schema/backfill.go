package schema

import (
	"fmt"
	"strings"
)

// BackfillPrefix is the prefix of the qualifiers of backfills, in the row with the rules of a tenant.
const BackfillPrefix = "b/"

// BackfillQualifier returns the qualifier of the backfill of a group of rules.
func BackfillQualifier(namespace, group string) string {
	return BackfillPrefix + namespace + "\x00" + group
}

// ParseBackfillQualifier parses a result of BackfillQualifier.
func ParseBackfillQualifier(q string) (namespace, group string, ok bool) {
	rest, ok := strings.CutPrefix(q, BackfillPrefix)
	if !ok {
		return "", "", false
	}
	return ParseRuleGroupQualifier(RuleGroupPrefix + rest)
}

// BackfillState is the state of a backfill.
type BackfillState uint8

// The states of a backfill.
const (
	BackfillRunning BackfillState = iota // the initial state
	BackfillDone
	BackfillFailed
	backfillStates
)

// Backfill is the evaluation of a group's recording rules for a time in the past. Times are Unix
// milliseconds.
type Backfill struct {
	State      BackfillState
	Start, End int64 // range of the slots, inclusive
	Done       int64 // time of the last slot that was evaluated; less than Start before the first one, End at the end
	Samples    int64 // number of written samples
	Failed     int64 // number of failed evaluations
	Error      string
	Created    int64 // identifies the backfill among all backfills of the group
	Updated    int64
}

// Encode returns the value of the cell.
func (b *Backfill) Encode() []byte {
	p := []byte{byte(b.State)}
	for _, v := range []int64{b.Start, b.End, b.Done, b.Samples, b.Failed, b.Created, b.Updated} {
		p = appendVarint(p, v)
	}
	return seal(valueBackfill, 1, appendText(p, b.Error))
}

// DecodeBackfill decodes the value of the cell.
func DecodeBackfill(value []byte) (Backfill, error) {
	p, err := open(valueBackfill, 1, "backfill", value)
	if err != nil {
		return Backfill{}, err
	}
	if len(p) == 0 || p[0] >= byte(backfillStates) {
		return Backfill{}, fmt.Errorf("%w: unknown state of a backfill", ErrCorrupt)
	}
	r := &reader{b: p[1:]}
	b := Backfill{State: BackfillState(p[0])}
	for _, v := range []*int64{&b.Start, &b.End, &b.Done, &b.Samples, &b.Failed, &b.Created, &b.Updated} {
		*v = r.varint("number")
	}
	b.Error = r.text("error")
	return b, r.end("backfill")
}
