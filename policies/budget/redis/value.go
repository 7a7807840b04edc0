package redis

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/budget"
)

// Reasons for ignoring a field, as in the metric.
const (
	damaged = "damaged"
	forged  = "forged"
	future  = "future"
)

var (
	errDamaged = errors.New("the field is damaged")
	errFuture  = errors.New("the time of the field is in the future")
)

// version is the first part of each value.
const version = "2"

// sign returns the value of this gateway's field: version, the estimated current time of
// Redis in ms, signature and demand, separated by spaces.
func (e *Exchange) sign(id string, d budget.Demands) (string, error) {
	now := strconv.FormatInt(e.redis+e.o.Now().Sub(e.at).Milliseconds(), 10)
	demands := encode(d)
	sig, err := e.signer.Sign(purpose, e.key, id, now, demands)
	if err != nil {
		return "", fmt.Errorf("sign the demands of this gateway: %w", err)
	}
	return strings.Join([]string{version, now, sig, demands}, " "), nil
}

// verify decodes the value of a field and checks that a gateway of this cluster wrote it.
func (e *Exchange) verify(field, value string) (told, error) {
	parts := strings.SplitN(value, " ", 4)
	if len(parts) != 4 || parts[0] != version {
		return told{}, errDamaged
	}
	at, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || at < 0 {
		return told{}, errDamaged
	}
	if _, err := e.signer.Verify(parts[2], "", purpose, e.key, field, parts[1], parts[3]); err != nil {
		return told{}, err
	}
	if at-e.redis > maxApart.Milliseconds() {
		return told{}, errFuture
	}
	d, err := decode(parts[3])
	return told{at: at, demands: d}, err
}

// entryBytes is the size of one entry without the tenant's ID.
const entryBytes = 1 + 3*4

// encode writes, for each tenant: the length of its ID in one byte, the ID, and three
// little-endian float32.
func encode(d budget.Demands) string {
	b := make([]byte, 0, len(d)*(entryBytes+16))
	for id, u := range d {
		b = append(b, byte(len(id))) // at most 150
		b = append(b, id...)
		for _, v := range u {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
		}
	}
	return string(b)
}

func decode(s string) (budget.Demands, error) {
	out := make(budget.Demands, min(len(s)/entryBytes, budget.MaxTenants))
	for len(s) > 0 {
		n := int(s[0])
		if len(s) < n+entryBytes {
			return nil, errDamaged
		}
		id, err := tenant.ParseID(s[1 : 1+n])
		if err != nil {
			return nil, errDamaged
		}
		var u budget.Use
		for d := range u {
			v := float64(math.Float32frombits(binary.LittleEndian.Uint32([]byte(s[1+n+4*d:]))))
			if math.IsNaN(v) || v < 0 {
				return nil, errDamaged
			}
			u[d] = v
		}
		out[id] = u
		s = s[n+entryBytes:]
	}
	return out, nil
}
