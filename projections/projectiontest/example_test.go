package projectiontest_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections/projectiontest"
)

// Revenue sums what was captured, by currency.
type Revenue struct{}

func (Revenue) Name() string { return "revenue" }
func (Revenue) Version() int { return 1 }

func (Revenue) Apply(tx *eventstore.Tx, e domain.Event) error {
	if e.Type != "billing.charge.captured" {
		return nil
	}
	var charge struct {
		Amount   int64
		Currency string
	}
	if err := json.Unmarshal(e.Data, &charge); err != nil {
		return err // it halts here, visibly, until somebody decides
	}
	sum := int64(0)
	if row := tx.Get(charge.Currency); row != nil {
		var err error
		if sum, err = strconv.ParseInt(string(row), 10, 64); err != nil {
			return err
		}
	}
	return tx.Put(charge.Currency, strconv.AppendInt(nil, sum+charge.Amount, 10))
}

func TestRevenue(t *testing.T) {
	var history []domain.Event
	for i := range 20 {
		history = append(history, domain.Event{
			Type: "billing.charge.captured", Stream: domain.Stream(fmt.Sprintf("billing/cus_%d", i%3)),
			Data: fmt.Appendf(nil, `{"amount":%d,"currency":"eur"}`, 100+i),
		})
	}
	projectiontest.Run(t, Revenue{}, history)
}
