"""`cgankd repeat`: the whole pipeline over draws of data split, teacher, GAN and bank, and what holds over them."""
