// Command penstock runs Penstock with its example business. A program for another business is this file with other
// values in it.
package main

import (
	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/domain/billing"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/projections/balances"
)

func main() {
	penstock.Main(penstock.App{
		Types:       billing.Types,
		Deciders:    []domain.AnyDecider{billing.Account, billing.Charge},
		Policies:    []domain.Policy{billing.FromStripe, billing.Disputes},
		Projections: []projections.Projection{balances.New()},
	})
}
