package redis

import (
	"crypto/ed25519"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// aheadOfRedis is how far a heartbeat may be ahead of Redis' time.
const aheadOfRedis = 10 * time.Second

// heartbeat says that the process which registered an entry is alive at a time.
// Its text is the time in ms of Redis, the hash of the entry's JSON, and a
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

// of returns the time of a heartbeat of an entry, if text is one. One that is
// ahead of now is none.
func (e *entry) beatAt(text string, now int64) (int64, bool) {
	b, ok := decodeHeartbeat(text)
	if !ok || b.hash != e.hash || b.at > now+aheadOfRedis.Milliseconds() {
		return 0, false
	}
	return b.at, ed25519.Verify(e.key, heartbeatMessage(e.ID, strconv.FormatInt(b.at, 10), b.hash), b.sig)
}
