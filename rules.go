package main

import (
	"maps"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api/rulesapi"
	"github.com/palliumhq/pallium/backend/querier"
)

// addRuleHandlers adds the configuration of rules to the API. Every backend serves it, whatever its
// roles are: it needs only the row store.
func (b *backend) addRuleHandlers() {
	handlers := rulesapi.New(rulesapi.Options{
		Store: b.longTerm.Options().Index.Rules, Parsers: querier.NewParsers(querier.MaxOperators), Limits: b.limitsOf, Memory: b.memory,
		Changed: func(id tenant.ID) {
			if b.rulesChanged != nil {
				b.rulesChanged(id)
			}
		},
		Logger: b.opts.Logger,
	})
	if b.api.Handlers == nil {
		b.api.Handlers = handlers
		return
	}
	maps.Copy(b.api.Handlers, handlers)
}
