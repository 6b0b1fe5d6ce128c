package projections

import "testing"

func TestATransactionTakesWhatFits(t *testing.T) {
	meal := newAppetite(50_000)
	eat := func(perRecord int64) {
		n := meal.next()
		meal.ate(n, int64(n)*perRecord)
	}
	for range 10 {
		eat(100) // small
	}
	if got := meal.next(); got != 50_000 {
		t.Errorf("%d records that change little, want 50,000", got)
	}
	for range 3 {
		eat(8 << 10) // a page or two each
	}
	if got := int64(meal.next()) * (8 << 10); got > pagesLimit || got < pagesLimit/2 {
		t.Errorf("a transaction of %d bytes of pages, want about %d", got, pagesLimit)
	}
	eat(1 << 30)
	if got := meal.next(); got != leastMeal {
		t.Errorf("%d records, want at least %d, so that it goes on", got, leastMeal)
	}
	for range 3 {
		meal.ate(1, 10) // the end of a batch says nothing
	}
	if got := meal.next(); got != leastMeal {
		t.Errorf("%d records after small ends of batches, want %d", got, leastMeal)
	}
	if slow := newAppetite(7); slow.next() != 7 {
		t.Errorf("%d records, want no more than the rate allows", slow.next())
	}
}
