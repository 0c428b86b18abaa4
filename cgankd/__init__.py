"""cGAN-KD: knowledge distillation through samples of a conditional GAN (arXiv 2104.03164)."""
