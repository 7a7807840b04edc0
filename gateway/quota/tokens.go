package quota

import (
	"fmt"
	"sync"
	"time"
)

// TokenConcurrency is the name of the limit of a token's requests in progress, in
// rejections.
const TokenConcurrency = "token_max_concurrent_requests"

// tokens counts the requests in progress of tokens that have a limit. A token without
// requests has no entry, so there are at most as many as requests. It is safe for
// concurrent use.
type tokens struct {
	mu       sync.Mutex
	inflight map[string]int
}

// enter counts a request of a token, until leave, or rejects it if most are in progress.
func (t *tokens) enter(token string, most int) *Rejection {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.inflight[token]
	if n >= most {
		return &Rejection{Limit: TokenConcurrency, Retry: time.Second, Text: fmt.Sprintf(
			"limit %s of %d requests exceeded: %d requests with this API key are in progress at this gateway; "+
				"send fewer at the same time, or ask the administrator for a higher limit of the token", TokenConcurrency, most, n)}
	}
	t.inflight[token] = n + 1
	return nil
}

func (t *tokens) leave(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inflight[token]--; t.inflight[token] <= 0 {
		delete(t.inflight, token)
	}
}
