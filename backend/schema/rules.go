package schema

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// RulesKey returns the key of the row with the rules of a tenant.
func RulesKey(t tenant.ID) string { return TenantPrefix(t) + string(kindRules) }

// RuledKey returns the key of the row that lists the tenants with rules.
func RuledKey() string { return system(kindRules) }

// Qualifiers of the row with the rules of a tenant. The row of RuledKey has tenants as qualifiers.
const (
	RulesVersionQualifier = "v"  // RulesVersion
	RuleGroupPrefix       = "g/" // RuleGroup
)

// RuleGroupQualifier returns the qualifier of a group of rules. The names must not contain a zero byte. Groups
// sort by namespace and then by name.
func RuleGroupQualifier(namespace, group string) string {
	return RuleGroupPrefix + namespace + "\x00" + group
}

// ParseRuleGroupQualifier parses a result of RuleGroupQualifier.
func ParseRuleGroupQualifier(q string) (namespace, group string, ok bool) {
	rest, ok := strings.CutPrefix(q, RuleGroupPrefix)
	if !ok {
		return "", "", false
	}
	namespace, group, ok = strings.Cut(rest, "\x00")
	return namespace, group, ok && namespace != "" && group != "" && !strings.Contains(group, "\x00")
}

// RulesVersion is the version of a tenant's rules; zero if the tenant never had any. Every change is
// conditional on it.
type RulesVersion struct {
	Number  uint64 // number of changes so far
	Attempt uint64 // random, so that a writer recognizes its own change after an unknown outcome
}

// Encode returns the value of the version's cell, which has exactly one encoding.
func (v RulesVersion) Encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, v.Number), v.Attempt)
}

// DecodeRulesVersion decodes the value of the version's cell.
func DecodeRulesVersion(value []byte) (RulesVersion, error) {
	if len(value) != 16 {
		return RulesVersion{}, fmt.Errorf("%w: version of rules has %d bytes instead of 16", ErrCorrupt, len(value))
	}
	v := RulesVersion{Number: binary.BigEndian.Uint64(value), Attempt: binary.BigEndian.Uint64(value[8:])}
	if v.Number == 0 {
		return v, fmt.Errorf("%w: version of rules has number 0", ErrCorrupt)
	}
	return v, nil
}

// RuleGroup is a group of rules.
type RuleGroup struct {
	YAML    string
	Written int64 // Unix milliseconds
}

// Encode returns the value of the group's cell.
func (g *RuleGroup) Encode() []byte {
	return seal(valueRuleGroup, 1, appendVarint(appendText(nil, g.YAML), g.Written))
}

// DecodeRuleGroup decodes the value of a group's cell.
func DecodeRuleGroup(value []byte) (RuleGroup, error) {
	b, err := open(valueRuleGroup, 1, "group of rules", value)
	if err != nil {
		return RuleGroup{}, err
	}
	r := &reader{b: b}
	g := RuleGroup{YAML: r.text("YAML"), Written: r.varint("time")}
	return g, r.end("group of rules")
}
