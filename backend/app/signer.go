package app

import (
	"encoding/hex"
	"fmt"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/cluster"
)

// signer signs what processes tell each other through Redis; see
// authn/cluster.Member.
type signer interface {
	Sign(purpose string, parts ...string) (string, error)
	Verify(signature, host, purpose string, parts ...string) (aged bool, err error)
}

// pepperSigner is for gateways that belong to no cluster, before Mimir for
// instance: all that share a Redis server share the pepper of their API keys.
func pepperSigner(p apikey.Pepper) (signer, error) {
	derived := p.Derive("signatures of gateways")
	secrets, err := cluster.ParseSecrets(hex.EncodeToString(derived[:]))
	if err != nil {
		return nil, fmt.Errorf("secret of gateways: %w", err)
	}
	return cluster.New(cluster.Options{Secrets: secrets})
}
