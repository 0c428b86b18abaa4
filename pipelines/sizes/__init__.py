"""`cgankd sizes`: students of other nets and widths, what each costs and answers on validation, and which one fits."""
