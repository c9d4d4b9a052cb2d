"""From Keras to .tflite: conversion, calibration, GPTQ, mixed precision, QAT, verification."""
