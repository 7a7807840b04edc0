package schema

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// AlertmanagerKey returns the key of the row with the configuration of a tenant's Alertmanager.
func AlertmanagerKey(t tenant.ID) string { return TenantPrefix(t) + string(kindAlertmanager) }

// SilencesKey returns the key of the row with the silences of a tenant.
func SilencesKey(t tenant.ID) string { return TenantPrefix(t) + string(kindSilences) }

// NotificationKey returns the key of the row of a notification: of a group of alerts to an integration of a receiver.
// position is the index of the integration among the receiver's integrations of the same kind.
func NotificationKey(t tenant.ID, group, receiver, integration string, position uint32) string {
	h := sha256.New()
	for _, s := range []string{group, receiver, integration} {
		h.Write(binary.AppendUvarint(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	h.Write(binary.BigEndian.AppendUint32(nil, position))
	return NotificationPrefix(t) + string(h.Sum(nil)[:hashSize])
}

// NotificationPrefix returns the prefix of the keys of a tenant's notifications.
func NotificationPrefix(t tenant.ID) string { return TenantPrefix(t) + string(kindNotification) }

// Qualifiers of the rows of an Alertmanager.
const (
	ChangeQualifier             = "v"  // of AlertmanagerKey and SilencesKey: random u64, replaced by every change
	AlertmanagerConfigQualifier = "c"  // of AlertmanagerKey: AlertmanagerConfig
	AlertmanagerSecretPrefix    = "s/" // of AlertmanagerKey, before the name: a secret, encrypted
	SilencePrefix               = "s/" // of SilencesKey, before the ID: Silence
	NotificationQualifier       = "n"  // of NotificationKey: Notification
)

// EncodeChange returns the value of a cell with the qualifier ChangeQualifier.
func EncodeChange(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// DecodeChange decodes the value of a cell with the qualifier ChangeQualifier.
func DecodeChange(value []byte) (uint64, error) {
	if len(value) != 8 {
		return 0, fmt.Errorf("%w: change has %d bytes instead of 8", ErrCorrupt, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// SilenceID returns the ID of a silence from the qualifier of its cell.
func SilenceID(qualifier string) (string, bool) { return strings.CutPrefix(qualifier, SilencePrefix) }

// SecretName returns the name of a secret from the qualifier of its cell.
func SecretName(qualifier string) (string, bool) {
	return strings.CutPrefix(qualifier, AlertmanagerSecretPrefix)
}

// AlertmanagerConfig is the configuration of a tenant's Alertmanager.
type AlertmanagerConfig struct {
	YAML    string // as the tenant wrote it: template_files and alertmanager_config
	Written int64  // Unix milliseconds
}

// Encode returns the value of the cell.
func (c *AlertmanagerConfig) Encode() []byte {
	return seal(valueAlertmanager, 1, appendVarint(appendText(nil, c.YAML), c.Written))
}

// DecodeAlertmanagerConfig decodes the value of the cell.
func DecodeAlertmanagerConfig(value []byte) (AlertmanagerConfig, error) {
	b, err := open(valueAlertmanager, 1, "configuration of an Alertmanager", value)
	if err != nil {
		return AlertmanagerConfig{}, err
	}
	r := &reader{b: b}
	c := AlertmanagerConfig{YAML: r.text("YAML"), Written: r.varint("time")}
	return c, r.end("configuration of an Alertmanager")
}

// Silence is a silence as Alertmanager's peers exchange it.
type Silence struct {
	Mesh    string // length-prefixed MeshSilence of Alertmanager's silencepb
	Updated int64  // Unix nanoseconds: time of the last change; a change must have a later time than the stored one
	Expires int64  // Unix milliseconds: when the silence may be removed
}

// Encode returns the value of the silence's cell.
func (s *Silence) Encode() []byte {
	return seal(valueSilence, 1, appendVarint(appendVarint(appendText(nil, s.Mesh), s.Updated), s.Expires))
}

// DecodeSilence decodes the value of a silence's cell.
func DecodeSilence(value []byte) (Silence, error) {
	b, err := open(valueSilence, 1, "silence", value)
	if err != nil {
		return Silence{}, err
	}
	r := &reader{b: b}
	s := Silence{Mesh: r.text("silence"), Updated: r.varint("time"), Expires: r.varint("expiry")}
	return s, r.end("silence")
}

// Notification is the state of a notification: the process that is sending it, and the last notification that was sent.
// Before the first claim there is no row, and the Notification is zero.
type Notification struct {
	Holder   string // name of the claim: its process and a number; empty: no process is sending
	Number   uint64 // of the claim, from 1
	Sequence uint64 // increased by every write of the row, from 1
	Content  uint64 // hash of the firing and resolved alerts of the last claim; 0 if it is unknown what was sent
	Failures uint64 // claims that were given up because the attempt failed
	Flushed  int64  // Unix milliseconds, by the clock of the sender: time of the flush that led to the notification in Entry
	Expires  int64  // Unix milliseconds: when the row may be deleted
	Entry    string // length-prefixed MeshEntry of Alertmanager's nflogpb; empty: nothing was sent
}

// Encode returns the value of the notification's cell. Equal notifications have equal values.
func (n *Notification) Encode() []byte {
	b := appendText(nil, n.Holder)
	for _, v := range []uint64{n.Number, n.Sequence, n.Content, n.Failures} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return seal(valueNotification, 1, appendText(appendVarint(appendVarint(b, n.Flushed), n.Expires), n.Entry))
}

// DecodeNotification decodes the value of a notification's cell.
func DecodeNotification(value []byte) (Notification, error) {
	b, err := open(valueNotification, 1, "notification", value)
	if err != nil {
		return Notification{}, err
	}
	r := &reader{b: b}
	n := Notification{Holder: r.text("holder"), Number: r.uint64("number"), Sequence: r.uint64("sequence"), Content: r.uint64("content"),
		Failures: r.uint64("failures"), Flushed: r.varint("time"), Expires: r.varint("expiry"), Entry: r.text("entry")}
	return n, r.end("notification")
}
