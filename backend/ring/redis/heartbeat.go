package redis

import (
	"crypto/ed25519"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// aheadOfRedis is how far a heartbeat may be ahead of the clock of Redis.
const aheadOfRedis = 10 * time.Second

// heartbeat proves that the process that registered an entry was alive at a time. Its
// text is the time (Unix ms by the clock of Redis), the hash of the entry's JSON, and a
// signature with the entry's key.
type heartbeat struct {
	at   int64
	hash string
	sig  []byte
}

func heartbeatMessage(id, at, hash string) []byte {
	return []byte("pallium ring heartbeat 1\n" + id + "\n" + at + "\n" + hash)
}

func newHeartbeat(key ed25519.PrivateKey, id string, at int64, hash string) string {
	text := strconv.FormatInt(at, 10)
	sig := ed25519.Sign(key, heartbeatMessage(id, text, hash))
	return text + " " + hash + " " + base64.RawStdEncoding.EncodeToString(sig)
}

func decodeHeartbeat(text string) (heartbeat, bool) {
	fields := strings.Split(text, " ")
	if len(fields) != 3 {
		return heartbeat{}, false
	}
	at, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || strconv.FormatInt(at, 10) != fields[0] {
		return heartbeat{}, false
	}
	sig, err := base64.RawStdEncoding.Strict().DecodeString(fields[2])
	return heartbeat{at, fields[1], sig}, err == nil
}

// beatAt returns the time of the heartbeat in text. ok is false if text is not a valid
// heartbeat of this entry, or is more than aheadOfRedis after now (in Unix ms).
func (e *entry) beatAt(text string, now int64) (int64, bool) {
	b, ok := decodeHeartbeat(text)
	if !ok || b.hash != e.hash || b.at > now+aheadOfRedis.Milliseconds() {
		return 0, false
	}
	return b.at, ed25519.Verify(e.key, heartbeatMessage(e.ID, strconv.FormatInt(b.at, 10), b.hash), b.sig)
}
